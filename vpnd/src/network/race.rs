//! Connecting to the fastest of several addresses: Happy Eyeballs version 2, [RFC 8305].
//!
//! [RFC 8305]: https://www.rfc-editor.org/rfc/rfc8305

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

/// How long an attempt runs alone before the next address is tried besides it: section 8's "Connection Attempt Delay".
const STAGGER: Duration = Duration::from_millis(250);

/// How long one attempt may take. A QUIC handshake with a slow TPM on a satellite link fits twice.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Addresses beyond these are not tried.
const MOST_ADDRESSES: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No marked socket.
    #[error("cannot open a socket: {0}")]
    Socket(#[source] io::Error),
    /// Nobody answered at any address.
    #[error("no connection to {server}: {}", describe(attempts))]
    Unreachable {
        /// The server's name or address.
        server: String,
        /// What happened at each address that was tried, in the order of the ends.
        attempts: Vec<(SocketAddr, AttemptError)>,
    },
}

/// Why an address did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// TCP, or the socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// QUIC would not start.
    #[error("{0}")]
    Setup(#[from] m2m_tunnel::hub::ConnectError),
    /// The handshake, TLS errors and the gateway's refusal included.
    #[error("{0}")]
    Tunnel(#[from] m2m_tunnel::client::ConnectError),
    /// The proxy on the way.
    #[error("proxy: {0}")]
    Proxy(#[from] m2m_tunnel::proxy::ProxyError),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
}

/// Tries the addresses in their order, each 250 ms after the one before it or as soon as that failed; the first that answers wins and the
/// others are dropped. At most 8 addresses, 10 seconds each.
///
/// # Errors
/// [`ConnectError::Unreachable`] with what happened at each address.
pub async fn race<T, F, Attempt>(
    server: &str,
    addresses: &[SocketAddr],
    attempt: F,
) -> Result<(SocketAddr, T), ConnectError>
where
    F: FnMut(SocketAddr) -> Attempt,
    Attempt: Future<Output = Result<T, AttemptError>>,
{
    race_at(STAGGER, ATTEMPT, server, addresses, attempt).await
}

async fn race_at<T, F, Attempt>(
    stagger: Duration,
    time_limit: Duration,
    server: &str,
    addresses: &[SocketAddr],
    mut attempt: F,
) -> Result<(SocketAddr, T), ConnectError>
where
    F: FnMut(SocketAddr) -> Attempt,
    Attempt: Future<Output = Result<T, AttemptError>>,
{
    let mut waiting = addresses.iter().copied().take(MOST_ADDRESSES);
    let mut running = FuturesUnordered::new();
    let mut failed = Vec::new();
    let mut next_start = Instant::now();
    let mut exhausted = false;
    loop {
        if running.is_empty() && exhausted {
            return Err(ConnectError::Unreachable { server: server.to_owned(), attempts: failed });
        }
        tokio::select! {
            biased;
            Some((address, end)) = running.next(), if !running.is_empty() => match end {
                Ok(won) => return Ok((address, won)),
                Err(error) => {
                    failed.push((address, error));
                    next_start = Instant::now();
                }
            },
            () = tokio::time::sleep_until(next_start), if !exhausted => {
                let Some(address) = waiting.next() else {
                    exhausted = true;
                    continue;
                };
                next_start = Instant::now() + stagger;
                let run = attempt(address);
                running.push(async move {
                    let end = tokio::time::timeout(time_limit, run).await.unwrap_or(Err(AttemptError::TimedOut));
                    (address, end)
                });
            }
        }
    }
}

/// The order of section 4: IPv6 first, then the families in turn, each family in the order of the resolver.
#[must_use]
pub fn order(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut ipv6 = addresses.iter().filter(|address| address.is_ipv6());
    let mut ipv4 = addresses.iter().filter(|address| address.is_ipv4());
    let mut ordered: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    loop {
        let (six, four) = (ipv6.next(), ipv4.next());
        if six.is_none() && four.is_none() {
            return ordered;
        }
        for address in [six, four].into_iter().flatten() {
            if !ordered.contains(address) {
                ordered.push(*address);
            }
        }
    }
}

fn describe(attempts: &[(SocketAddr, AttemptError)]) -> String {
    if attempts.is_empty() {
        return "it has no address".to_owned();
    }
    let texts: Vec<String> = attempts.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    texts.join("; ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn refused() -> AttemptError {
        io::Error::from(io::ErrorKind::ConnectionRefused).into()
    }

    #[test]
    fn families_take_turns_and_nothing_is_tried_twice() {
        let given = [at("192.0.2.1:1"), at("192.0.2.2:1"), at("[2001:db8::1]:1"), at("192.0.2.1:1")];
        assert_eq!(order(&given), [at("[2001:db8::1]:1"), at("192.0.2.1:1"), at("192.0.2.2:1")]);
        assert_eq!(order(&[]), []);
    }

    const SOON: Duration = Duration::from_millis(50);
    const NEVER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_silent_address_costs_the_stagger_and_a_refusing_one_nothing() {
        let start = Instant::now();
        let addresses = [at("192.0.2.1:1"), at("192.0.2.2:1"), at("192.0.2.3:1"), at("192.0.2.4:1")];
        let (winner, ()) = race_at(SOON, NEVER, "host", &addresses, |address| async move {
            match address.ip().to_string().as_str() {
                "192.0.2.1" => std::future::pending().await,
                "192.0.2.2" => Err(refused()),
                "192.0.2.3" => Ok(()),
                _ => panic!("the race was over"),
            }
        })
        .await
        .unwrap();
        assert_eq!(winner, at("192.0.2.3:1"));
        assert!(start.elapsed() >= SOON);
        // With a stagger without end, only a refusal lets the next address start.
        let (winner, ()) = race_at(NEVER, NEVER, "host", &addresses[1..], |address| async move {
            if address == addresses[1] { Err(refused()) } else { Ok(()) }
        })
        .await
        .unwrap();
        assert_eq!(winner, at("192.0.2.3:1"));
    }

    #[tokio::test]
    async fn an_early_address_may_still_win_while_later_ones_run() {
        let addresses = [at("192.0.2.1:1"), at("192.0.2.2:1")];
        let second_runs = tokio::sync::Notify::new();
        let (winner, ()) = race_at(SOON, NEVER, "host", &addresses, |address| {
            let second_runs = &second_runs;
            async move {
                if address == at("192.0.2.1:1") {
                    second_runs.notified().await;
                    return Ok(());
                }
                second_runs.notify_one();
                std::future::pending().await
            }
        })
        .await
        .unwrap();
        assert_eq!(winner, at("192.0.2.1:1"));
    }

    #[tokio::test]
    async fn all_failures_are_told() {
        let addresses = [at("192.0.2.1:1"), at("[2001:db8::1]:2")];
        let error = race_at::<(), _, _>(Duration::ZERO, SOON, "host", &addresses, |address| async move {
            if address.is_ipv6() { Err(refused()) } else { std::future::pending().await }
        })
        .await
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no connection to host: [2001:db8::1]:2: connection refused; 192.0.2.1:1: no answer in time"
        );
        let error = race::<(), _, _>("host", &[], |_| async { Err(refused()) }).await.unwrap_err();
        assert_eq!(error.to_string(), "no connection to host: it has no address");
    }

    #[tokio::test]
    async fn not_more_than_eight_addresses_are_tried() {
        let addresses = [at("192.0.2.1:1"); 20];
        let error =
            race_at::<(), _, _>(NEVER, NEVER, "host", &addresses, |_| async { Err(refused()) }).await.unwrap_err();
        let ConnectError::Unreachable { attempts, .. } = error else { panic!("{error}") };
        assert_eq!(attempts.len(), MOST_ADDRESSES);
    }
}
