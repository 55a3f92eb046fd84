//! Ports on 127.0.0.1 that nobody else has, also when several launchers choose at once.
//!
//! A port is chosen before its child listens on it. Between launchers of one machine a claim (a name in
//! the kernel's abstract socket space, gone with the process) closes that gap; against other
//! programs a child that lost its port before it was ever ready gets another.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::Error;

/// Below the kernel's own range (32768 and up): a port from that range may serve as some
/// client's local port while its server restarts, and then the server can't have it back.
const FIRST: u16 = 20_000;
const LAST: u16 = 29_999;

/// What moves a default port that is taken: 8080 becomes 18080, then 28080.
const STEP: u16 = 10_000;

/// A port of 127.0.0.1, claimed among launchers while this value lives.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// Set by the person, under this variable; such a port never moves.
    variable: Option<&'static str>,
    _claim: UnixListener,
}

impl Port {
    /// Any free port.
    pub(crate) fn free() -> Result<Self, Error> {
        let start = rand::random_range(FIRST..=LAST);
        (start..=LAST)
            .chain(FIRST..start)
            .find_map(|number| Self::take(number, None))
            .ok_or(Error::NoPort {
                from: FIRST,
                to: LAST,
            })
    }

    /// `asked` if the person set it under `variable`, else any free port.
    pub(crate) fn asked_or_free(asked: Option<u16>, variable: &'static str) -> Result<Self, Error> {
        asked.map_or_else(Self::free, |number| Self::exactly(number, variable))
    }

    /// `asked` if the person set it under `variable`, else `default`, or a free one where that is
    /// taken.
    pub(crate) fn asked_or_near(
        asked: Option<u16>,
        variable: &'static str,
        default: u16,
    ) -> Result<Self, Error> {
        if let Some(number) = asked {
            return Self::exactly(number, variable);
        }
        [default, default + STEP, default + 2 * STEP]
            .into_iter()
            .find_map(|number| Self::take(number, None))
            .map_or_else(Self::free, Ok)
    }

    fn exactly(number: u16, variable: &'static str) -> Result<Self, Error> {
        Self::take(number, Some(variable)).ok_or(Error::PortTaken {
            port: number,
            variable,
        })
    }

    fn take(number: u16, variable: Option<&'static str>) -> Option<Self> {
        let name = format!("tributary-port-{number}");
        let claim = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()?;
        is_free(number).then_some(Self {
            number,
            variable,
            _claim: claim,
        })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Called when a child ended before it was ready: if somebody else has the port, takes another.
    pub(crate) fn move_if_lost(&mut self) -> Result<(), Error> {
        if is_free(self.number) {
            return Ok(());
        }
        if let Some(variable) = self.variable {
            return Err(Error::PortTaken {
                port: self.number,
                variable,
            });
        }
        *self = Self::free()?;
        Ok(())
    }
}

fn is_free(number: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_listened_on_and_is_given_once() {
        let one = Port::free().unwrap();
        let number = one.number();
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok());
        assert!(
            Port::take(number, None).is_none(),
            "given while it is claimed"
        );
        drop(one);
        assert!(Port::take(number, None).is_some());
    }

    #[test]
    fn a_taken_default_moves_and_a_taken_wish_is_an_error() {
        let taken = Port::free().unwrap();
        let number = taken.number();
        let moved = Port::asked_or_near(None, "X_PORT", number).unwrap();
        assert_ne!(moved.number(), number);
        let error = Port::asked_or_free(Some(number), "X_PORT").unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port {number} is taken; free it, or set X_PORT to another")
        );
    }

    #[test]
    fn a_lost_port_is_replaced_and_a_kept_one_is_not() {
        let mut port = Port::free().unwrap();
        let number = port.number();
        port.move_if_lost().unwrap();
        assert_eq!(port.number(), number);
        let _thief = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        port.move_if_lost().unwrap();
        assert_ne!(port.number(), number);
    }
}
