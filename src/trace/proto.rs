// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Protocol buffers as far as a trace needs them: fields of four kinds, one after the other.
//!
//! A crate such as prost would bring a macro, a compiler of schemas and, with them, more code than
//! the twenty fields that are written here. The numbers are those of Perfetto's schema, with which
//! a test reads what is written.

/// A message that is being written.
#[derive(Default)]
pub struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        loop {
            let byte = value.to_le_bytes()[0] & 0x7f;
            value >>= 7;
            if value == 0 {
                return self.0.push(byte);
            }
            self.0.push(byte | 0x80);
        }
    }

    fn key(&mut self, field: u32, wire: u32) {
        self.varint((u64::from(field) << 3) | u64::from(wire));
    }

    /// A number.
    pub fn number(&mut self, field: u32, value: impl Into<u64>) -> &mut Self {
        self.key(field, 0);
        self.varint(value.into());
        self
    }

    /// A number of eight bytes.
    pub fn fixed(&mut self, field: u32, value: u64) -> &mut Self {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A text.
    pub fn text(&mut self, field: u32, text: &str) -> &mut Self {
        self.bytes(field, text.as_bytes())
    }

    /// A message in this one.
    pub fn message(&mut self, field: u32, message: &Message) -> &mut Self {
        self.bytes(field, &message.0)
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    /// Its bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_fields_are_encoded_as_the_specification_of_protocol_buffers_has_it() {
        let mut inner = Message::default();
        inner.number(1, 150_u32);
        let mut message = Message::default();
        message.message(3, &inner).text(2, "testing").fixed(47, 1);
        let expected = [
            b"\x1a\x03\x08\x96\x01\x12\x07testing".as_slice(),
            b"\xf9\x02\x01\0\0\0\0\0\0\0",
        ];
        assert_eq!(message.finish(), expected.concat());
    }
}
