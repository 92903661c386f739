//! The task that moves a connection's frames. It ends with the connection.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Reason, client, server};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};

use super::{
    WINDOW,
    backlog::Chunk,
    link::{Link, Orders},
    reason,
    transport::Transport,
};
use crate::{
    http3::{Code, ProtocolError},
    session::CloseReason,
};

/// How long the last frames may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests besides that for a tunnel that are refused one by one. No device has a reason for any.
pub(super) const MAX_REFUSED: u32 = 32;

pub(super) type ClientConnection<T> = client::Connection<Transport<T>, Chunk>;
pub(super) type ServerConnection<T> = server::Connection<Transport<T>, Chunk>;

/// Drives a client's connection.
pub(super) async fn of_client<T>(
    mut connection: ClientConnection<T>,
    mut requests: client::SendRequest<Chunk>,
    link: Arc<Link>,
    mut orders: watch::Receiver<Orders>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        tokio::select! {
            outcome = poll_fn(|cx| poll_client(&mut connection, &mut requests, &link, cx)) => return end(&link, outcome),
            _ = orders.changed() => {
                if orders.borrow_and_update().close.is_some() {
                    break;
                }
            }
        }
    }
    // Without requests and streams h2 says goodbye by itself.
    drop(requests);
    farewell(timeout(CLOSE_TIMEOUT, connection).await);
}

fn poll_client<T>(
    connection: &mut ClientConnection<T>,
    requests: &mut client::SendRequest<Chunk>,
    link: &Link,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let outcome = Pin::new(connection).poll(cx);
    if let Some(code) = look_for_farewell(requests, cx) {
        link.bid_farewell(code);
    }
    outcome
}

/// The server's GOAWAY, if it sent one: h2 tells it only to those who want to send another request.
pub(super) fn look_for_farewell(requests: &mut client::SendRequest<Chunk>, cx: &mut Context<'_>) -> Option<Code> {
    match requests.poll_ready(cx) {
        Poll::Ready(Err(error)) if error.is_go_away() && error.is_remote() => error.reason().map(reason::to_code),
        _ => None,
    }
}

/// Drives a server's connection.
pub(super) async fn of_server<T>(
    mut connection: ServerConnection<T>,
    link: Arc<Link>,
    mut orders: watch::Receiver<Orders>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut refused = 0;
    let why = loop {
        tokio::select! {
            request = connection.accept() => match request {
                // A connection carries one tunnel.
                Some(Ok((_, mut respond))) => {
                    respond.send_reset(Reason::REFUSED_STREAM);
                    refused += 1;
                    if refused > MAX_REFUSED {
                        link.fail(ProtocolError::new(Code::EXCESSIVE_LOAD, "too many requests that are none for a tunnel"));
                    }
                }
                Some(Err(error)) => return end(&link, Err(error)),
                None => return end(&link, Ok(())),
            },
            _ = orders.changed() => {
                let ordered = *orders.borrow_and_update();
                if let Some(why) = ordered.close {
                    break why;
                }
                if ordered.grant {
                    connection.set_target_window_size(WINDOW);
                }
                if ordered.go_away {
                    connection.graceful_shutdown();
                }
            }
        }
    };
    // The stream's last frames first: h2 drops them when it shuts down.
    let _ = poll_fn(|cx| Poll::Ready(connection.poll_closed(cx))).await;
    connection.abrupt_shutdown(why);
    farewell(timeout(CLOSE_TIMEOUT, poll_fn(|cx| connection.poll_closed(cx))).await);
}

fn end(link: &Link, outcome: Result<(), h2::Error>) {
    link.end(match link.why_broken() {
        // The peer reset the stream before it closed the connection.
        Some(reason @ CloseReason::Peer { .. }) if outcome.is_ok() => reason,
        _ => reason::of_end(outcome, link.farewell(), &link.socket),
    });
}

fn farewell<Elapsed>(outcome: Result<Result<(), h2::Error>, Elapsed>) {
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("connection ended in closing: {error}"),
        Err(_) => log::debug!("the peer did not take the last frames in time"),
    }
}
