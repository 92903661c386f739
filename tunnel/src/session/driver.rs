//! The tasks that keep a tunnel's streams moving. They end with the connection.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{CloseReason, Event, Packets, Streams};
use crate::{
    capsule::{Capsule, CapsuleReader},
    exchange::{self, Broken, Inbound},
    http3::{
        Code, ProtocolError, frame,
        stream::{ControlEvent, RequestEvent},
    },
    link::{Link, varint},
    varint as integer,
};

/// What to send.
#[derive(Debug)]
pub(crate) enum Command {
    Capsule(Capsule),
    GoAway,
}

/// Starts them.
pub(crate) fn start(
    link: Arc<Link>,
    packets: Packets,
    streams: Streams,
) -> (mpsc::Sender<Command>, mpsc::Receiver<Event>) {
    let (commands, command_queue) = mpsc::channel(8);
    let (events, event_queue) = mpsc::channel(32);
    let Streams { is_server, inbound, outbound, control, peer } = streams;
    let writer = Writer {
        // A server names the first stream that it does not serve any more, a client the first push (RFC 9114 §5.2).
        goaway: if is_server { u64::from(outbound.id()) + 4 } else { 0 },
        outbound,
        control,
    };
    tokio::spawn(write(Arc::clone(&link), writer, command_queue));
    tokio::spawn(follow_peer(peer, events.clone()));
    tokio::spawn(refuse_requests(Arc::clone(&link), is_server));
    tokio::spawn(read(link, inbound, packets, events));
    (commands, event_queue)
}

async fn read(link: Arc<Link>, mut inbound: Inbound, packets: Packets, events: mpsc::Sender<Event>) {
    match read_capsules(&mut inbound, &packets, &events).await {
        Ok(()) => link.close(CloseReason::Ended, Code::NO_ERROR, ""),
        Err(broken) => {
            broken.close(&link);
        }
    }
}

async fn read_capsules(inbound: &mut Inbound, packets: &Packets, events: &mpsc::Sender<Event>) -> Result<(), Broken> {
    let mut capsules = CapsuleReader::default();
    while let Some(event) = inbound.next_event().await? {
        let RequestEvent::Data(piece) = event else {
            // Trailers mean nothing here.
            continue;
        };
        capsules.push(&piece);
        while let Some(capsule) = capsules.next_capsule()? {
            let event = match capsule {
                Capsule::Datagram(payload) => {
                    packets.push_from_capsule(&payload);
                    continue;
                }
                Capsule::AddressAssign(addresses) => Event::AddressesAssigned(addresses),
                Capsule::AddressRequest(addresses) => Event::AddressesRequested(addresses),
                Capsule::RouteAdvertisement(ranges) => Event::RoutesAdvertised(ranges),
            };
            // Without a receiver the session is being dropped.
            let _ = events.send(event).await;
        }
    }
    Ok(capsules.finish()?)
}

async fn follow_peer(mut peer: mpsc::Receiver<ControlEvent>, events: mpsc::Sender<Event>) {
    while let Some(event) = peer.recv().await {
        if matches!(event, ControlEvent::GoAway(_)) {
            let _ = events.send(Event::GoAway).await;
        }
    }
}

/// A connection carries one tunnel: further requests are not processed, and a server must not make any.
async fn refuse_requests(link: Arc<Link>, is_server: bool) {
    while let Ok((mut outbound, mut inbound)) = link.connection.accept_bi().await {
        if !is_server {
            let reason = "request from a server";
            link.fail(&ProtocolError::new(Code::STREAM_CREATION_ERROR, reason));
            return;
        }
        // Both fail only when the stream is over already.
        let _ = inbound.stop(varint(Code::REQUEST_REJECTED));
        let _ = outbound.reset(varint(Code::REQUEST_REJECTED));
    }
}

struct Writer {
    outbound: quinn::SendStream,
    control: quinn::SendStream,
    goaway: u64,
}

async fn write(link: Arc<Link>, mut writer: Writer, mut commands: mpsc::Receiver<Command>) {
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = link.connection.closed() => return,
        };
        let Some(command) = command else {
            // The streams must stay open as long as the connection.
            link.connection.closed().await;
            return;
        };
        if let Err(broken) = writer.write(command).await {
            broken.close(&link);
            return;
        }
    }
}

impl Writer {
    async fn write(&mut self, command: Command) -> Result<(), Broken> {
        let mut out = Vec::new();
        match command {
            Command::Capsule(capsule) => {
                capsule.encode(&mut out);
                exchange::send_data(&mut self.outbound, &out).await
            }
            Command::GoAway => {
                frame::write_header(frame::kind::GOAWAY, integer::size(self.goaway) as u64, &mut out);
                integer::write(self.goaway, &mut out);
                exchange::send(&mut self.control, out.into()).await
            }
        }
    }
}
