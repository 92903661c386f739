//! How a tunnel is asked for, granted and refused (RFC 9484 §4, RFC 9220).

use std::time::Instant;

use http::StatusCode;
use quinn_proto::StreamId;

use super::{ANSWER_TIMEOUT, Event, Phase, Session, printable};
use crate::{
    http3::{
        Code, ProtocolError,
        message::{Request, Response},
        settings::Settings,
    },
    qpack::Field,
    request::{self, Refusal},
};

/// The field of an answer that says that ECHO capsules are sent back (RFC 9651 boolean).
const ECHO: &str = "m2mvpn-echo";

impl Session {
    /// Says yes to the request. Addresses and routes come after it.
    pub fn accept(&mut self) {
        let Phase::Requested { stream } = self.phase else { return };
        let mut granted = request::granted();
        granted.fields.push(Field::new(ECHO, "?1"));
        self.streams.send_fields(&mut self.quic, stream, &granted.to_fields());
        self.streams.expect_tunnel(stream);
        self.open(stream);
    }

    /// Refuses the request, says why in plain text, waits until the client has it (2 seconds at most) and closes the
    /// connection.
    pub fn reject(&mut self, refusal: &Refusal, now: Instant) {
        let Phase::Requested { stream } = self.phase else { return };
        self.answer(stream, refusal, &refusal.reason);
        self.phase = Phase::Rejecting { stream };
        self.deadline = Some(now + ANSWER_TIMEOUT);
    }

    pub(super) fn peer_settings(&mut self, settings: Settings, now: Instant) -> Result<(), ProtocolError> {
        if settings.h3_datagram && self.quic.datagrams().max_size().is_none() {
            let reason = "HTTP datagrams without QUIC datagrams";
            return Err(ProtocolError::new(Code::SETTINGS_ERROR, reason));
        }
        match &mut self.phase {
            Phase::Connecting(_) => {
                // An extended CONNECT must not be sent before the server said that it takes one (RFC 9220 §3).
                let missing = match settings {
                    Settings { enable_connect_protocol: false, .. } => "ENABLE_CONNECT_PROTOCOL",
                    Settings { h3_datagram: false, .. } => "H3_DATAGRAM",
                    _ => return Ok(()),
                };
                self.events.push_back(Event::Unsupported { missing });
                self.close(Code::NO_ERROR, "no IP tunnels here", now);
            }
            Phase::Listening { settings: seen, .. } => {
                *seen = Some(settings);
                self.announce(now);
            }
            _ => {}
        }
        Ok(())
    }

    /// Asks for the tunnel, as soon as the server says that it has some and there is a stream for the request.
    pub(super) fn ask(&mut self) {
        let Phase::Connecting(request) = &self.phase else { return };
        if !self.streams.knows_peer() {
            return;
        }
        let fields = request.fields();
        let Some(stream) = self.streams.open_request(&mut self.quic) else { return };
        self.streams.send_fields(&mut self.quic, stream, &fields);
        self.phase = Phase::Asked { stream };
    }

    pub(super) fn fields(&mut self, stream: StreamId, fields: Vec<Field>, now: Instant) -> Result<(), ProtocolError> {
        match &self.phase {
            Phase::Asked { stream: own } if *own == stream => self.answered(stream, Response::from_fields(fields)?),
            Phase::Listening { request: None, .. } => self.asked(stream, Request::from_fields(fields)?, now),
            // A connection carries one tunnel.
            _ if self.quic.side().is_server() => {
                self.streams.reject(&mut self.quic, stream);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn answered(&mut self, stream: StreamId, response: Response) -> Result<(), ProtocolError> {
        if response.status.is_informational() {
            return Ok(());
        }
        if !response.status.is_success() {
            self.phase = Phase::Refused { stream, status: response.status, text: Vec::new() };
            return Ok(());
        }
        if !request::starts_capsules(&response) {
            return Err(ProtocolError::new(Code::MESSAGE_ERROR, "answer does not start the capsule protocol"));
        }
        if response.fields.iter().any(|field| field.name == ECHO.as_bytes() && field.value == b"?1") {
            self.liveness.peer_has_echo();
        }
        self.events.push_back(Event::Established);
        self.open(stream);
        Ok(())
    }

    pub(super) fn asked(&mut self, stream: StreamId, asked: Request, now: Instant) -> Result<(), ProtocolError> {
        match request::scope_at(&self.matcher, &asked) {
            Ok(scope) => {
                if let Phase::Listening { request, .. } = &mut self.phase {
                    *request = Some((stream, asked, scope));
                }
                self.announce(now);
            }
            Err(refusal) => {
                self.streams.stop(&mut self.quic, stream, Code::NO_ERROR);
                let text = if asked.method == "HEAD" { "" } else { &refusal.reason };
                self.answer(stream, &refusal, text);
            }
        }
        Ok(())
    }

    /// Tells the program of the request, once it is known that the client takes packets.
    pub(super) fn announce(&mut self, now: Instant) {
        let Phase::Listening { settings: Some(settings), request } = &mut self.phase else { return };
        let takes_packets = settings.h3_datagram;
        let Some((stream, request, scope)) = request.take() else { return };
        self.phase = Phase::Requested { stream };
        if !takes_packets {
            return self.reject(&Refusal::new(StatusCode::BAD_REQUEST, "HTTP datagrams are needed"), now);
        }
        self.deadline = None;
        self.events.push_back(Event::Requested(Box::new(request), scope));
    }

    pub(super) fn refused(&mut self, now: Instant) {
        let Phase::Refused { status, text, .. } = &self.phase else { return };
        self.events.push_back(Event::Refused { status: *status, reason: printable(text) });
        self.close(Code::NO_ERROR, "", now);
    }

    pub(super) fn answer(&mut self, stream: StreamId, refusal: &Refusal, text: &str) {
        let mut fields = vec![
            Field::new("content-type", "text/plain;charset=utf-8"),
            Field::new("content-length", &text.len().to_string()),
        ];
        fields.extend(refusal.proxy_status().map(|value| Field::new("proxy-status", &value)));
        let response = Response { status: refusal.status, fields };
        self.streams.send_fields(&mut self.quic, stream, &response.to_fields());
        if !text.is_empty() {
            self.streams.send_content(&mut self.quic, stream, text.as_bytes());
        }
        self.streams.finish(&mut self.quic, stream);
    }
}
