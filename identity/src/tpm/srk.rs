//! SRK
