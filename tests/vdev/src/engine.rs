// SPDX-License-Identifier: GPL-2.0

//! Executing HSM and AES commands somewhere else.

/// Names a request.
pub type Token = u64;

/// An HSM request and what its SQE tells about the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HsmRequest {
    /// Code of the session kind.
    pub kind: u8,
    /// The session, if the SQE calls it valid.
    pub session: Option<u16>,
    /// The request.
    pub message: Vec<u8>,
}

/// An AES command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AesRequest {
    /// Cipher: XTS rather than GCM.
    pub xts: bool,
    /// Direction: decryption rather than encryption.
    pub decrypt: bool,
    /// Key ids; GCM uses only the first one.
    pub keys: [u32; 2],
    /// The session.
    pub session: u16,
    /// The short application id.
    pub app_id: u8,
    /// The IV of GCM in the first 12 bytes, or the tweak of XTS.
    pub iv: [u8; 16],
    /// The tag of a GCM decryption.
    pub tag: [u8; 16],
    /// Size of the data units of XTS; 0 if all data is one.
    pub unit: u32,
    /// Additional authenticated data, without padding.
    pub aad: Vec<u8>,
    /// The text.
    pub text: Vec<u8>,
}

/// Something to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// An HSM request.
    Hsm(HsmRequest),
    /// A flush of a session.
    Flush {
        /// The session.
        session: u16,
    },
    /// An AES command.
    Aes(AesRequest),
}

/// How something went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The request it answers.
    pub token: Token,
    /// Status of the CQE.
    pub status: u16,
    /// Error code of the CQE of an AES command.
    pub error: u16,
    /// Code of the session kind, if it is not that of the SQE.
    pub kind: Option<u8>,
    /// The session, if it is valid.
    pub session: Option<u16>,
    /// The short application id, if it is valid.
    pub app_id: Option<u8>,
    /// The session is closed.
    pub closed: bool,
    /// The FIPS indicator of an AES command.
    pub fips: u32,
    /// The tag of a GCM encryption.
    pub tag: [u8; 16],
    /// The IV that GCM used, if it is not that of the SQE.
    pub iv: Option<[u8; 12]>,
    /// The response, or the text.
    pub data: Vec<u8>,
}

/// What happened to the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetKind {
    /// It was enabled.
    Enable,
    /// It was disabled.
    Disable,
    /// It was reset through NSSR.
    Subsystem,
    /// A function level reset.
    Function,
    /// A reset of the bus, or power-on.
    Bus,
    /// The firmware crashed.
    Crash,
}

/// Executes requests in its own time.
pub trait Engine: Send {
    /// Takes a request.
    fn submit(&mut self, request: Request) -> Token;

    /// The answers since the last call.
    fn replies(&mut self) -> Vec<Reply>;

    /// Tells that something happened to the function.
    fn reset(&mut self, kind: ResetKind);
}
