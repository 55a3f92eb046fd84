//! Watches a runtime's HTTP/1 connections: one look over all of them every so often in place of a timer
//! for each request, which would cost every click.
//!
//! A connection is closed when it waits longer than the limit for the head of its next request: it is
//! idle, or its client sends a header byte by byte, or does not read the answer. While a request is
//! being answered it is left alone: handlers have limits of their own.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How often connections are looked at, at least.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a connection is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Serve,
    /// Answer what is in flight, then end.
    Finish,
    /// End now.
    Close,
}

/// One connection, as its runtime sees it.
pub(crate) struct Watch {
    order: Cell<Order>,
    /// Requests that are being answered.
    answering: Cell<u32>,
    /// The first look that saw it wait for its next request; none has yet.
    waiting_since: Cell<Option<Instant>>,
    waker: RefCell<Option<Waker>>,
}

impl Watch {
    /// Whether the connection is to end after what it answers.
    pub(crate) fn is_finishing(&self) -> bool {
        self.order.get() != Order::Serve
    }

    /// What `work` comes to, unless the connection is told to close meanwhile.
    pub(crate) async fn unless_closing<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        std::future::poll_fn(|context| {
            if self.order.get() == Order::Close {
                return Poll::Ready(None);
            }
            self.heed(context);
            work.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// Keeps the task's waker, which is the same for the task's whole life.
    fn heed(&self, context: &Context<'_>) {
        if self.waker.borrow().is_none() {
            *self.waker.borrow_mut() = Some(context.waker().clone());
        }
    }

    /// A request has arrived; it is answered when what is returned is dropped.
    pub(crate) fn answering(&self) -> Answering<'_> {
        self.answering.set(self.answering.get() + 1);
        Answering(self)
    }

    fn tell(&self, order: Order) {
        if self.order.get() != order {
            self.order.set(order);
            self.wake();
        }
    }

    /// Has the connection's task look again.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

/// All connections of a runtime.
pub(crate) struct Watches {
    limit: Duration,
    finishing: Cell<bool>,
    open: RefCell<Vec<Weak<Watch>>>,
}

impl Watches {
    /// Connections may wait for `limit`.
    pub(crate) fn new(limit: Duration) -> Rc<Self> {
        Rc::new(Self {
            limit,
            finishing: Cell::new(false),
            open: RefCell::default(),
        })
    }

    /// A new connection.
    pub(crate) fn watch(&self) -> Rc<Watch> {
        let order = if self.finishing.get() {
            Order::Finish
        } else {
            Order::Serve
        };
        let watch = Rc::new(Watch {
            order: Cell::new(order),
            answering: Cell::new(0),
            waiting_since: Cell::new(None),
            waker: RefCell::default(),
        });
        self.open.borrow_mut().push(Rc::downgrade(&watch));
        watch
    }

    /// Closes whoever has waited too long; forever. `each` is called at every look.
    pub(crate) async fn look_after(&self, each: impl Fn()) {
        let every = LOOK_EVERY.min(self.limit / 4);
        loop {
            tokio::time::sleep(every).await;
            self.look();
            each();
        }
    }

    fn look(&self) {
        let now = Instant::now();
        self.open.borrow_mut().retain(|watch| {
            let Some(watch) = watch.upgrade() else {
                return false;
            };
            match watch.waiting_since.get() {
                _ if watch.answering.get() > 0 => {}
                None => watch.waiting_since.set(Some(now)),
                Some(since) if now.saturating_duration_since(since) >= self.limit => {
                    watch.tell(Order::Close);
                }
                Some(_) => {}
            }
            true
        });
    }

    /// Closes every connection that waits for a request.
    pub(crate) fn close_waiting(&self) {
        for watch in self.open.borrow().iter().filter_map(Weak::upgrade) {
            if watch.answering.get() == 0 {
                watch.tell(Order::Close);
            }
        }
    }

    /// Tells every connection, and those to come, to end after what they answer.
    pub(crate) fn finish(&self) {
        self.finishing.set(true);
        for watch in self.open.borrow().iter().filter_map(Weak::upgrade) {
            if watch.order.get() == Order::Serve {
                watch.tell(Order::Finish);
            }
        }
    }
}

/// A request that is being answered.
pub(crate) struct Answering<'w>(&'w Watch);

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.0.answering.set(self.0.answering.get() - 1);
        self.0.waiting_since.set(None);
    }
}

/// A connection that can be asked to end in order.
pub(crate) trait Finish: Future {
    fn finish(self: Pin<&mut Self>);
}

/// Runs a connection as its watch is told. None: it was closed.
pub(crate) async fn watched<C: Finish>(connection: C, watch: &Watch) -> Option<C::Output> {
    let mut connection = std::pin::pin!(connection);
    let mut finishing = false;
    std::future::poll_fn(|context: &mut Context<'_>| {
        match watch.order.get() {
            Order::Serve => {}
            Order::Finish if finishing => {}
            Order::Finish => {
                finishing = true;
                connection.as_mut().finish();
            }
            Order::Close => return Poll::Ready(None),
        }
        watch.heed(context);
        connection.as_mut().poll(context).map(Some)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection that never ends by itself.
    struct Endless {
        finished: Rc<Cell<bool>>,
    }

    impl Future for Endless {
        type Output = ();

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if self.finished.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }
    }

    impl Finish for Endless {
        fn finish(self: Pin<&mut Self>) {
            self.finished.set(true);
        }
    }

    fn endless() -> Endless {
        Endless {
            finished: Rc::default(),
        }
    }

    fn patience() -> Duration {
        Duration::from_secs(10)
    }

    #[tokio::test]
    async fn who_waits_too_long_is_closed_and_who_is_answered_is_not() {
        let all = Watches::new(Duration::from_millis(40));
        let (idle, busy) = (all.watch(), all.watch());
        let answering = busy.answering();
        let looking = all.look_after(|| {});
        let closed = tokio::select! {
            () = looking => unreachable!("it looks for ever"),
            ended = watched(endless(), &idle) => ended,
            _ = watched(endless(), &busy) => unreachable!("it is being answered"),
            () = tokio::time::sleep(patience()) => unreachable!("it is closed in time"),
        };
        assert_eq!(closed, None);
        drop(answering);
        let looking = all.look_after(|| {});
        tokio::select! {
            () = looking => unreachable!("it looks for ever"),
            ended = watched(endless(), &busy) => assert_eq!(ended, None),
            () = tokio::time::sleep(patience()) => unreachable!("it is closed in time"),
        }
        drop((idle, busy));
        all.look();
        assert!(all.open.borrow().is_empty());
    }

    #[tokio::test]
    async fn all_are_asked_to_finish_once() {
        let all = Watches::new(patience());
        let watch = all.watch();
        let (ended, ()) = tokio::join!(watched(endless(), &watch), async {
            tokio::task::yield_now().await;
            all.finish();
        });
        assert_eq!(ended, Some(()));
        assert_eq!(watched(endless(), &all.watch()).await, Some(()));
    }
}
