// SPDX-License-Identifier: GPL-2.0

//! The items of a message and their encoding.

use thiserror::Error;

/// How deep maps may be nested in a message that is decoded.
pub const MAX_DEPTH: usize = 16;

const MAP: u8 = 0xa0;
const MAP_MASK: u8 = 0xe0;
const FIELDS_MASK: u8 = 0x1f;
const BYTES: u8 = 0x80;
const PAD_MASK: u8 = 0x03;
const U8: u8 = 0x18;
const U16: u8 = 0x19;
const U32: u8 = 0x1a;
const U64: u8 = 0x1b;
const FALSE: u8 = 0x14;
const TRUE: u8 = 0x15;

/// Why a message could not be encoded or decoded.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Error {
    /// The message ends inside an item.
    #[error("message is cut short")]
    Truncated,
    /// There are bytes after the message.
    #[error("message is followed by other bytes")]
    Trailing,
    /// No item starts with this byte.
    #[error("no item starts with {0:#04x}")]
    Marker(u8),
    /// Padding is not made of zeros, or does not align what follows it.
    #[error("padding of a byte string is wrong")]
    Padding,
    /// Field keys do not ascend.
    #[error("field keys do not ascend")]
    KeyOrder,
    /// Maps are nested deeper than [`MAX_DEPTH`].
    #[error("maps are nested too deep")]
    Depth,
    /// A map has more fields, or a string more bytes, than can be expressed.
    #[error("item is too large")]
    TooLarge,
    /// The items are sound, but they are not a message of the expected shape.
    #[error("{0}")]
    Shape(&'static str),
}

/// One item of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Fields in ascending order of their keys.
    Map(Vec<(u8, Value)>),
    /// An unsigned 8-bit integer.
    U8(u8),
    /// An unsigned 16-bit integer.
    U16(u16),
    /// An unsigned 32-bit integer, or an enumeration.
    U32(u32),
    /// An unsigned 64-bit integer.
    U64(u64),
    /// A boolean.
    Bool(bool),
    /// A byte string of any length; its data is aligned in the message.
    Bytes(Vec<u8>),
    /// A byte array of fixed length, which is never padded.
    ///
    /// The wire does not tell it from a byte string that needs no padding:
    /// decoding yields [`Value::Bytes`] if the data is aligned.
    Array(Vec<u8>),
}

impl Value {
    /// A map without fields.
    pub fn empty() -> Self {
        Value::Map(Vec::new())
    }

    /// The field of a map with this key.
    pub fn field(&self, key: u8) -> Option<&Value> {
        match self {
            Value::Map(fields) => fields
                .iter()
                .find(|(candidate, _)| *candidate == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The value of an 8-bit integer.
    pub fn as_u8(&self) -> Option<u8> {
        match self {
            Value::U8(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of a 16-bit integer.
    pub fn as_u16(&self) -> Option<u16> {
        match self {
            Value::U16(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of a 32-bit integer or enumeration.
    pub fn as_u32(&self) -> Option<u32> {
        match self {
            Value::U32(value) => Some(*value),
            _ => None,
        }
    }

    /// The value of a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The data of a byte string or array.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Bytes(data) | Value::Array(data) => Some(data),
            _ => None,
        }
    }

    /// Encodes a whole message.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        self.encode_into(&mut out)?;
        Ok(out)
    }

    /// Appends the item to the message in `out`.
    ///
    /// Padding depends on the position, so `out` has to hold the message from
    /// its first byte.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Value::Map(fields) => {
                if fields.len() > usize::from(FIELDS_MASK) {
                    return Err(Error::TooLarge);
                }
                out.push(MAP | fields.len() as u8);
                let mut last = None;
                for (key, value) in fields {
                    if last.is_some_and(|last| last >= *key) {
                        return Err(Error::KeyOrder);
                    }
                    last = Some(*key);
                    out.extend([U8, *key]);
                    value.encode_into(out)?;
                }
            }
            Value::U8(value) => out.extend([U8, *value]),
            Value::U16(value) => {
                out.push(U16);
                out.extend(value.to_be_bytes());
            }
            Value::U32(value) => {
                out.push(U32);
                out.extend(value.to_be_bytes());
            }
            Value::U64(value) => {
                out.push(U64);
                out.extend(value.to_be_bytes());
            }
            Value::Bool(value) => out.push(if *value { TRUE } else { FALSE }),
            Value::Bytes(data) => encode_bytes(out, data, true)?,
            Value::Array(data) => encode_bytes(out, data, false)?,
        }
        Ok(())
    }

    /// Decodes a whole message.
    pub fn decode(message: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader {
            message,
            position: 0,
        };
        let value = reader.value(0)?;
        if reader.position != message.len() {
            return Err(Error::Trailing);
        }
        Ok(value)
    }
}

fn encode_bytes(out: &mut Vec<u8>, data: &[u8], align: bool) -> Result<(), Error> {
    let length = u16::try_from(data.len()).map_err(|_| Error::TooLarge)?;
    let start = out.len() + 3;
    let pad = if align {
        start.next_multiple_of(4) - start
    } else {
        0
    };
    out.push(BYTES | pad as u8);
    out.extend(length.to_be_bytes());
    out.resize(out.len() + pad, 0);
    out.extend_from_slice(data);
    Ok(())
}

struct Reader<'a> {
    message: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let end = self.position.checked_add(count).ok_or(Error::Truncated)?;
        let taken = self
            .message
            .get(self.position..end)
            .ok_or(Error::Truncated)?;
        self.position = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        self.take(N)?.try_into().map_err(|_| Error::Truncated)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn value(&mut self, depth: usize) -> Result<Value, Error> {
        let marker = self.byte()?;
        match marker {
            U8 => Ok(Value::U8(self.byte()?)),
            U16 => Ok(Value::U16(u16::from_be_bytes(self.array()?))),
            U32 => Ok(Value::U32(u32::from_be_bytes(self.array()?))),
            U64 => Ok(Value::U64(u64::from_be_bytes(self.array()?))),
            FALSE => Ok(Value::Bool(false)),
            TRUE => Ok(Value::Bool(true)),
            _ if marker & MAP_MASK == MAP => self.map(marker & FIELDS_MASK, depth),
            _ if marker & !PAD_MASK == BYTES => self.bytes(usize::from(marker & PAD_MASK)),
            _ => Err(Error::Marker(marker)),
        }
    }

    fn map(&mut self, fields: u8, depth: usize) -> Result<Value, Error> {
        if depth == MAX_DEPTH {
            return Err(Error::Depth);
        }
        let mut map: Vec<(u8, Value)> = Vec::with_capacity(usize::from(fields));
        for _ in 0..fields {
            let marker = self.byte()?;
            if marker != U8 {
                return Err(Error::Marker(marker));
            }
            let key = self.byte()?;
            if map.last().is_some_and(|(last, _)| *last >= key) {
                return Err(Error::KeyOrder);
            }
            map.push((key, self.value(depth + 1)?));
        }
        Ok(Value::Map(map))
    }

    fn bytes(&mut self, pad: usize) -> Result<Value, Error> {
        let length = usize::from(u16::from_be_bytes(self.array()?));
        if self.take(pad)?.iter().any(|byte| *byte != 0) {
            return Err(Error::Padding);
        }
        let aligned = self.position % 4 == 0;
        if pad != 0 && !aligned {
            return Err(Error::Padding);
        }
        let data = self.take(length)?.to_vec();
        Ok(if aligned {
            Value::Bytes(data)
        } else {
            Value::Array(data)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn items_have_the_documented_bytes() {
        let table: [(Value, &[u8]); 9] = [
            (Value::U8(0x7f), &[0x18, 0x7f]),
            (Value::U16(0x0102), &[0x19, 0x01, 0x02]),
            (Value::U32(1002), &[0x1a, 0x00, 0x00, 0x03, 0xea]),
            (
                Value::U64(0x0102_0304_0506_0708),
                &[0x1b, 1, 2, 3, 4, 5, 6, 7, 8],
            ),
            (Value::Bool(false), &[0x14]),
            (Value::Bool(true), &[0x15]),
            (Value::empty(), &[0xa0]),
            (
                Value::Map(vec![(1, Value::U8(2)), (3, Value::Bool(true))]),
                &[0xa2, 0x18, 1, 0x18, 2, 0x18, 3, 0x15],
            ),
            // Three bytes of head, so one of padding.
            (
                Value::Bytes(vec![0xaa, 0xbb]),
                &[0x81, 0x00, 0x02, 0x00, 0xaa, 0xbb],
            ),
        ];
        for (value, bytes) in table {
            assert_eq!(value.encode().as_deref(), Ok(bytes), "{value:?}");
            assert_eq!(Value::decode(bytes), Ok(value));
        }
    }

    #[test]
    fn byte_strings_are_aligned_at_every_position() {
        // The map head and the field key take three bytes and each boolean
        // field adds three, so the string starts at 6 + 3n.
        for (before, pad) in [(0u8, 2u8), (1, 3), (2, 0), (3, 1)] {
            let mut fields: Vec<_> = (0..before).map(|key| (key, Value::Bool(true))).collect();
            fields.push((before, Value::Bytes(vec![1, 2, 3, 4, 5])));
            let value = Value::Map(fields);
            let message = value.encode().unwrap();
            let head = message.len() - 5 - usize::from(pad) - 3;
            assert_eq!(message[head], 0x80 | pad);
            assert_eq!((message.len() - 5) % 4, 0);
            assert_eq!(Value::decode(&message), Ok(value));
        }
    }

    #[test]
    fn fixed_arrays_are_not_padded() {
        assert_eq!(
            Value::Array(vec![1, 2]).encode().as_deref(),
            Ok(&[0x80, 0, 2, 1, 2][..])
        );
        assert_eq!(
            Value::decode(&[0x80, 0, 2, 1, 2]),
            Ok(Value::Array(vec![1, 2]))
        );
    }

    #[test]
    fn bad_messages_are_refused() {
        let mut deep = [0xa1, 0x18, 0].repeat(MAX_DEPTH);
        deep.push(0xa0);
        let table: [(&[u8], Error); 12] = [
            (&[], Error::Truncated),
            (&[0x18], Error::Truncated),
            (&[0x1b, 1, 2, 3], Error::Truncated),
            (&[0x14, 0x14], Error::Trailing),
            (&[0x00], Error::Marker(0)),
            (&[0x84, 0, 0], Error::Marker(0x84)),
            (&[0xa1, 0x19, 0, 0x14], Error::Marker(0x19)),
            (&[0x81, 0, 1, 9, 1], Error::Padding),
            (&[0x82, 0, 1, 0, 0, 1], Error::Padding),
            (&[0xa2, 0x18, 1, 0x14, 0x18, 1, 0x14], Error::KeyOrder),
            (&[0x81, 0xff, 0xff, 0], Error::Truncated),
            (&deep, Error::Depth),
        ];
        for (message, error) in table {
            assert_eq!(Value::decode(message), Err(error), "{message:02x?}");
        }
    }

    #[test]
    fn what_cannot_be_expressed_is_refused() {
        let fields = |count: u8| Value::Map((0..count).map(|key| (key, Value::U8(0))).collect());
        assert!(fields(31).encode().is_ok());
        assert_eq!(fields(32).encode(), Err(Error::TooLarge));
        assert!(Value::Bytes(vec![0; 65535]).encode().is_ok());
        assert_eq!(Value::Bytes(vec![0; 65536]).encode(), Err(Error::TooLarge));
        let unordered = Value::Map(vec![(2, Value::U8(0)), (1, Value::U8(0))]);
        assert_eq!(unordered.encode(), Err(Error::KeyOrder));
    }

    fn arbitrary_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u8>().prop_map(Value::U8),
            any::<u16>().prop_map(Value::U16),
            any::<u32>().prop_map(Value::U32),
            any::<u64>().prop_map(Value::U64),
            any::<bool>().prop_map(Value::Bool),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            proptest::collection::btree_map(any::<u8>(), inner, 0..6)
                .prop_map(|fields| Value::Map(fields.into_iter().collect()))
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_itself(value in arbitrary_value()) {
            let message = value.encode().unwrap();
            prop_assert_eq!(Value::decode(&message), Ok(value));
        }

        #[test]
        fn no_input_panics(message in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Value::decode(&message);
        }

        #[test]
        fn what_decodes_encodes_to_itself(
            value in arbitrary_value(),
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let mut message = value.encode().unwrap();
            for (index, byte) in flips {
                let index = index.index(message.len());
                message[index] ^= byte;
            }
            if let Ok(value) = Value::decode(&message) {
                prop_assert_eq!(value.encode().unwrap(), message);
            }
        }
    }
}
