//! Client frames for the benches.

/// A key without structure, so that no part of the work can be skipped.
pub(crate) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Appends a frame as a client sends it.
pub(crate) fn masked(stream: &mut Vec<u8>, first: u8, payload: &[u8]) {
    let len = payload.len();
    match len {
        0..126 => stream.extend([first, 0x80 | len as u8]),
        126..65536 => {
            stream.extend([first, 0xfe]);
            stream.extend((len as u16).to_be_bytes());
        }
        _ => {
            stream.extend([first, 0xff]);
            stream.extend((len as u64).to_be_bytes());
        }
    }
    stream.extend(KEY);
    stream.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}
