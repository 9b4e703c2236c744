// SPDX-License-Identifier: GPL-2.0

//! Operation and status numbers.

/// How an operation relates to sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// Needs no session.
    None,
    /// Opens one.
    Open,
    /// Closes one.
    Close,
    /// Runs inside one.
    InSession,
}

impl SessionKind {
    /// The kind with this two-bit code; higher bits are ignored.
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => SessionKind::None,
            1 => SessionKind::Open,
            2 => SessionKind::Close,
            _ => SessionKind::InSession,
        }
    }

    /// The two-bit code in queue entries.
    pub fn bits(self) -> u8 {
        match self {
            SessionKind::None => 0,
            SessionKind::Open => 1,
            SessionKind::Close => 2,
            SessionKind::InSession => 3,
        }
    }
}

/// The number of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation(pub u32);

impl Operation {
    /// No operation; names the operation of a request that cannot be decoded.
    pub const INVALID: Self = Self(1001);
    /// Tells the revisions of the protocol that the HSM speaks.
    pub const GET_API_REV: Self = Self(1002);
    /// Tells what the HSM is.
    pub const GET_DEVICE_INFO: Self = Self(1003);
    /// Deletes a key.
    pub const DELETE_KEY: Self = Self(1014);
    /// Generates an AES key.
    pub const AES_GENERATE_KEY: Self = Self(1071);
    /// Starts to establish a credential.
    pub const GET_ESTABLISH_CRED_ENCRYPTION_KEY: Self = Self(1101);
    /// Establishes a credential.
    pub const ESTABLISH_CREDENTIAL: Self = Self(1102);
    /// Starts to open a session.
    pub const GET_SESSION_ENCRYPTION_KEY: Self = Self(1103);
    /// Opens a session.
    pub const OPEN_SESSION: Self = Self(1104);
    /// Closes a session.
    pub const CLOSE_SESSION: Self = Self(1105);
    /// Tells how long the certificate chain is.
    pub const GET_CERT_CHAIN_INFO: Self = Self(1108);
    /// Fetches a certificate.
    pub const GET_CERTIFICATE: Self = Self(1109);
    /// Brings back a session that a reset left in need of renegotiation.
    pub const REOPEN_SESSION: Self = Self(1110);
    /// Initialises backup key 3.
    pub const INIT_BK3: Self = Self(1111);
    /// Fetches sealed backup key 3.
    pub const GET_SEALED_BK3: Self = Self(1112);
    /// Stores sealed backup key 3.
    pub const SET_SEALED_BK3: Self = Self(1113);
    /// Resets the function; exists in test builds of the firmware only.
    pub const RESET_FUNCTION: Self = Self(2001);

    /// Whether the protocol has an operation of this number.
    pub fn is_known(self) -> bool {
        matches!(
            self.0,
            1002..=1003
                | 1014..=1016
                | 1031
                | 1035
                | 1051
                | 1061..=1062
                | 1071..=1072
                | 1074..=1077
                | 1101..=1113
                | 2001..=2010
        )
    }

    /// How the operation relates to sessions.
    pub fn session_kind(self) -> SessionKind {
        match self {
            Self::GET_API_REV
            | Self::GET_DEVICE_INFO
            | Self::GET_ESTABLISH_CRED_ENCRYPTION_KEY
            | Self::ESTABLISH_CREDENTIAL
            | Self::GET_SESSION_ENCRYPTION_KEY
            | Self::GET_CERT_CHAIN_INFO
            | Self::GET_CERTIFICATE
            | Self::INIT_BK3
            | Self::GET_SEALED_BK3
            | Self::SET_SEALED_BK3 => SessionKind::None,
            Self::OPEN_SESSION => SessionKind::Open,
            Self::CLOSE_SESSION | Self::RESET_FUNCTION => SessionKind::Close,
            _ => SessionKind::InSession,
        }
    }
}

/// The status of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    /// The operation succeeded.
    pub const SUCCESS: Self = Self(0);
    /// Something in the request is wrong.
    pub const INVALID_ARGUMENT: Self = Self(134_217_731);
    /// The HSM failed.
    pub const INTERNAL_ERROR: Self = Self(134_217_736);
    /// The HSM does not know the operation.
    pub const UNSUPPORTED_COMMAND: Self = Self(134_217_737);
    /// The request is not a message.
    pub const DECODE_FAILED: Self = Self(141_033_474);
    /// All sessions are in use.
    pub const SESSION_LIMIT: Self = Self(141_557_761);
    /// The operation takes no session, but the request names one.
    pub const SESSION_NOT_EXPECTED: Self = Self(141_557_762);
    /// The operation needs a session, but the request names none.
    pub const SESSION_EXPECTED: Self = Self(141_557_763);
    /// There is no such session.
    pub const SESSION_NOT_FOUND: Self = Self(141_557_764);
    /// The function is not enabled.
    pub const FUNCTION_NOT_ENABLED: Self = Self(141_557_799);
    /// The HSM does not speak this revision of the protocol.
    pub const UNSUPPORTED_REVISION: Self = Self(141_557_802);
    /// A wait inside the HSM took too long.
    pub const IO_TIMED_OUT: Self = Self(141_557_914);
    /// A reset happened since the session was opened.
    pub const SESSION_NEEDS_RENEGOTIATION: Self = Self(141_557_959);
    /// No credential has been established.
    pub const PARTITION_NOT_PROVISIONED: Self = Self(141_557_973);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_kinds_follow_the_documentation() {
        for number in [1002, 1003, 1101, 1102, 1103, 1108, 1109, 1111, 1112, 1113] {
            assert_eq!(Operation(number).session_kind(), SessionKind::None);
        }
        assert_eq!(Operation(1104).session_kind(), SessionKind::Open);
        assert_eq!(Operation(1105).session_kind(), SessionKind::Close);
        assert_eq!(Operation(2001).session_kind(), SessionKind::Close);
        for number in [1014, 1031, 1071, 1106, 1107, 1110] {
            assert_eq!(Operation(number).session_kind(), SessionKind::InSession);
        }
    }

    #[test]
    fn kinds_have_two_bit_codes() {
        for bits in 0..=255u8 {
            assert_eq!(SessionKind::from_bits(bits).bits(), bits & 3);
        }
    }

    #[test]
    fn gaps_between_the_numbers_are_unknown() {
        for number in [0, 1001, 1004, 1073, 1078, 1100, 1114, 2000, 2011, u32::MAX] {
            assert!(!Operation(number).is_known(), "{number}");
        }
    }
}
