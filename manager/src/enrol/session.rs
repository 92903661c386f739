//! The challenges that wait for their answer. Pure: the time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use m2m_protocol::names::Token;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::introduction::Introduction;

/// How long a device may take to answer. A discrete TPM needs a second or two.
const LIFETIME: Duration = Duration::from_secs(120);
/// How many challenges may wait at a time. Each is a few kilobytes.
const CAPACITY: usize = 4096;

/// A challenge that was sent.
#[derive(Debug)]
pub(super) struct Session {
    introduction: Introduction,
    secret: Zeroizing<Vec<u8>>,
    expires: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    waiting: HashMap<Token, Session>,
}

/// Why there is no session.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SessionError {
    /// Too many devices enrol at this moment.
    #[error("too many enrolments are under way")]
    Full,
    /// There is none of that name: it never was, was answered already, or took too long.
    #[error("the session is unknown, was answered already or has expired: begin anew")]
    Unknown,
    /// The answer is wrong; the session is gone.
    #[error("the secret is wrong: it was not this TPM, or not this key, that the challenge was made for")]
    WrongSecret,
}

impl Sessions {
    /// Remembers under `name`, which must be unguessable, that `introduction` is to be answered with `secret`.
    ///
    /// # Errors
    /// [`SessionError::Full`].
    pub(super) fn open(
        &mut self,
        name: Token,
        introduction: Introduction,
        secret: Zeroizing<Vec<u8>>,
        now: Instant,
    ) -> Result<(), SessionError> {
        if self.waiting.len() >= CAPACITY {
            self.waiting.retain(|_, session| session.expires > now);
        }
        if self.waiting.len() >= CAPACITY {
            return Err(SessionError::Full);
        }
        self.waiting.insert(name, Session { introduction, secret, expires: now + LIFETIME });
        Ok(())
    }

    /// Ends the session `name`, whatever the answer, and gives back who has introduced itself if `answer` is right.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`SessionError::WrongSecret`].
    pub(super) fn close(&mut self, name: &str, answer: &[u8], now: Instant) -> Result<Introduction, SessionError> {
        let name: Token = name.parse().map_err(|_| SessionError::Unknown)?;
        let session = self.waiting.remove(&name).ok_or(SessionError::Unknown)?;
        if session.expires <= now {
            return Err(SessionError::Unknown);
        }
        if !bool::from(session.secret.as_slice().ct_eq(answer)) {
            return Err(SessionError::WrongSecret);
        }
        Ok(session.introduction)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::introduction::tests::introduction;
    use super::*;

    fn opened(now: Instant) -> Sessions {
        let mut sessions = Sessions::default();
        sessions.open("a1".parse().unwrap(), introduction("SN-1"), Zeroizing::new(vec![7; 32]), now).unwrap();
        sessions
    }

    #[test]
    fn the_right_secret_is_taken_once() {
        let now = Instant::now();
        let mut sessions = opened(now);
        assert_eq!(sessions.close("a1", &[7; 32], now).unwrap().serial.as_str(), "SN-1");
        assert_eq!(sessions.close("a1", &[7; 32], now).unwrap_err(), SessionError::Unknown);
    }

    #[test]
    fn a_wrong_secret_ends_the_session() {
        let now = Instant::now();
        for wrong in [&[0; 32][..], &[7; 31], &[7; 33], &[]] {
            let mut sessions = opened(now);
            assert_eq!(sessions.close("a1", wrong, now).unwrap_err(), SessionError::WrongSecret);
            assert_eq!(sessions.close("a1", &[7; 32], now).unwrap_err(), SessionError::Unknown);
        }
    }

    #[test]
    fn a_session_expires() {
        let now = Instant::now();
        assert!(opened(now).close("a1", &[7; 32], now + LIFETIME - Duration::from_millis(1)).is_ok());
        assert_eq!(opened(now).close("a1", &[7; 32], now + LIFETIME).unwrap_err(), SessionError::Unknown);
        assert_eq!(opened(now).close("../a1", &[7; 32], now).unwrap_err(), SessionError::Unknown);
    }

    #[test]
    fn their_number_is_bounded_and_the_expired_make_room() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        let mut open = |number: usize, at: Instant| {
            let secret = Zeroizing::new(vec![7; 32]);
            sessions.open(number.to_string().parse().unwrap(), introduction("SN-1"), secret, at)
        };
        for number in 0..CAPACITY {
            open(number, now).unwrap();
        }
        assert_eq!(open(CAPACITY, now).unwrap_err(), SessionError::Full);
        open(CAPACITY, now + LIFETIME).unwrap();
    }
}
