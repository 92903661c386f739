//! Variable-length integers (RFC 9000 §16).
