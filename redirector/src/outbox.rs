//! Answers leave together: whatever was ready in one turn of a runtime is read and answered first, then
//! all answers are written, one after the other. The kernel's way of sending is run through many times
//! while the CPU's caches hold it, and whoever reads the answers is woken for many at once
//! (benches/README.md says what that is worth).

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Notify;

use crate::watch::Watch;

/// What one connection has to send.
pub(crate) struct Outgoing {
    half: OwnedWriteHalf,
    bytes: RefCell<Vec<u8>>,
    /// It lies in the outbox.
    is_queued: Cell<bool>,
    /// The kernel did not take all of it: the connection has to see to the rest itself.
    is_stuck: Cell<bool>,
    watch: Rc<Watch>,
}

impl Outgoing {
    pub(crate) fn new(half: OwnedWriteHalf, watch: Rc<Watch>) -> Self {
        Self {
            half,
            bytes: RefCell::default(),
            is_queued: Cell::new(false),
            is_stuck: Cell::new(false),
            watch,
        }
    }

    /// Appends to what is to be sent; answers how much that is now.
    pub(crate) fn write(&self, answer: impl FnOnce(&mut Vec<u8>)) -> usize {
        let mut bytes = self.bytes.borrow_mut();
        answer(&mut bytes);
        bytes.len()
    }

    /// Whether [`Outgoing::flush`] is wanted.
    pub(crate) fn is_stuck(&self) -> bool {
        self.is_stuck.get()
    }

    /// Sends everything, however long that takes.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        while !self.send()? {
            self.half.writable().await?;
        }
        self.is_stuck.set(false);
        Ok(())
    }

    /// Gives the kernel what it takes at once; whether that was everything.
    fn send(&self) -> io::Result<bool> {
        let mut bytes = self.bytes.borrow_mut();
        while !bytes.is_empty() {
            match self.half.try_write(&bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) if taken == bytes.len() => bytes.clear(),
                Ok(taken) => drop(bytes.drain(..taken)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The socket's half, for another use.
    pub(crate) fn into_half(self) -> OwnedWriteHalf {
        self.half
    }
}

/// The connections of a runtime that have something to send.
#[derive(Default)]
pub(crate) struct Outbox {
    queue: RefCell<Vec<Rc<Outgoing>>>,
    filled: Notify,
}

impl Outbox {
    /// Sends what there is at the end of this turn. What doesn't leave then wakes the connection's task.
    pub(crate) fn put(&self, outgoing: &Rc<Outgoing>) {
        if outgoing.bytes.borrow().is_empty() || outgoing.is_queued.replace(true) {
            return;
        }
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            // Behind every task that is ready now: a runtime takes them in order.
            self.filled.notify_one();
        }
        queue.push(Rc::clone(outgoing));
    }

    /// Takes a connection back out.
    pub(crate) fn withdraw(&self, outgoing: &Rc<Outgoing>) {
        if outgoing.is_queued.replace(false) {
            let mut queue = self.queue.borrow_mut();
            queue.retain(|queued| !Rc::ptr_eq(queued, outgoing));
        }
    }

    /// Does what `put` promises; forever.
    pub(crate) async fn empty(&self) {
        let mut leaving = Vec::new();
        loop {
            self.filled.notified().await;
            std::mem::swap(&mut leaving, &mut *self.queue.borrow_mut());
            for outgoing in leaving.drain(..) {
                outgoing.is_queued.set(false);
                if !outgoing.send().unwrap_or(false) {
                    outgoing.is_stuck.set(true); // an error comes again to whoever flushes
                    outgoing.watch.wake();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Watches;
    use std::time::Duration;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    async fn connection() -> (Rc<Outgoing>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, server) = tokio::join!(client, listener.accept());
        let (_, half) = server.unwrap().0.into_split();
        let watch = Watches::new(Duration::from_secs(10)).watch();
        (Rc::new(Outgoing::new(half, watch)), client.unwrap())
    }

    #[tokio::test]
    async fn what_is_put_leaves_once_and_in_order() {
        let (outbox, (outgoing, mut client)) = (Outbox::default(), connection().await);
        let (other, mut second) = connection().await;
        outbox.put(&outgoing); // nothing to send
        assert!(outbox.queue.borrow().is_empty());
        outgoing.write(|out| out.extend(b"one, "));
        outbox.put(&outgoing);
        outgoing.write(|out| out.extend(b"two"));
        outbox.put(&outgoing);
        other.write(|out| out.extend(b"never"));
        outbox.put(&other);
        outbox.withdraw(&other);
        drop(other);
        let mut read = [0; 8];
        tokio::select! {
            () = outbox.empty() => unreachable!("it waits for more"),
            read = client.read_exact(&mut read) => assert_eq!(read.unwrap(), 8),
        }
        assert_eq!(&read, b"one, two");
        assert!(!outgoing.is_stuck());
        assert_eq!(second.read(&mut read).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_is_left_to_the_connection() {
        let (outbox, (outgoing, mut client)) = (Outbox::default(), connection().await);
        let bytes = 64 * 1024 * 1024;
        outgoing.write(|out| out.resize(bytes, b'x'));
        outbox.put(&outgoing);
        let stuck = async {
            while !outgoing.is_stuck() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = outbox.empty() => unreachable!("it waits for more"),
            () = stuck => {}
        }
        let reader = async {
            let mut whole = vec![0; bytes];
            client.read_exact(&mut whole).await.unwrap();
        };
        let (flushed, ()) = tokio::join!(outgoing.flush(), reader);
        flushed.unwrap();
        assert!(!outgoing.is_stuck());
        drop(client);
    }
}
