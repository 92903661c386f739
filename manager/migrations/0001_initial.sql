-- Times are seconds since 1970-01-01 UTC. Hashes and certificate serial numbers are lower-case hexadecimal.

CREATE TABLE devices (
    id             TEXT PRIMARY KEY,
    serial         TEXT NOT NULL,
    hostname       TEXT NOT NULL,
    label          TEXT,
    -- SHA-256 of the TPMT_PUBLIC of the endorsement key; NULL for a device without TPM.
    ek_hash        TEXT UNIQUE,
    ek_certificate BLOB,
    state          TEXT NOT NULL CHECK (state IN ('pending', 'approved', 'revoked')),
    -- Why it is in this state.
    reason         TEXT NOT NULL,
    first_seen     INTEGER NOT NULL,
    last_seen      INTEGER NOT NULL
) STRICT;

CREATE INDEX devices_by_serial ON devices (serial);

-- Every certificate that the issuing CA signed.
CREATE TABLE certificates (
    serial         TEXT PRIMARY KEY,
    -- NULL for the certificate of a gateway or of the manager itself.
    device         TEXT REFERENCES devices (id),
    subject        TEXT NOT NULL,
    -- SHA-256 of the SubjectPublicKeyInfo.
    key_hash       TEXT NOT NULL,
    not_before     INTEGER NOT NULL,
    not_after      INTEGER NOT NULL,
    revoked_at     INTEGER,
    -- CRLReason, RFC 5280 section 5.3.1.
    revoked_reason INTEGER,
    CHECK ((revoked_at IS NULL) = (revoked_reason IS NULL))
) STRICT;

CREATE INDEX certificates_by_device ON certificates (device);

-- Endorsement keys that are let in, by the SHA-256 of their TPMT_PUBLIC.
CREATE TABLE ek_allow (
    hash           TEXT PRIMARY KEY,
    origin         TEXT NOT NULL,
    added          INTEGER NOT NULL
) STRICT;

-- CAs whose endorsement key certificates are believed.
CREATE TABLE ek_ca (
    fingerprint    TEXT PRIMARY KEY,
    subject        TEXT NOT NULL,
    certificate    BLOB NOT NULL,
    added          INTEGER NOT NULL
) STRICT;

-- The serial numbers, as patterns, for which such a CA's word is enough.
CREATE TABLE ek_ca_serials (
    fingerprint    TEXT NOT NULL REFERENCES ek_ca (fingerprint) ON DELETE CASCADE,
    pattern        TEXT NOT NULL,
    PRIMARY KEY (fingerprint, pattern)
) STRICT;

-- One-time tokens for EST, of which only the SHA-256 is kept.
CREATE TABLE tokens (
    hash           TEXT PRIMARY KEY,
    serial         TEXT NOT NULL,
    expires        INTEGER NOT NULL
) STRICT;

-- The current revocation list; its number only ever grows.
CREATE TABLE crl (
    only_row       INTEGER PRIMARY KEY CHECK (only_row = 1),
    number         INTEGER NOT NULL,
    next_update    INTEGER NOT NULL,
    der            BLOB NOT NULL
) STRICT;
