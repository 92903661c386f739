//! QPACK with an empty dynamic table (RFC 9204).
