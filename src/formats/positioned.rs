//! Reading at a position, without moving a shared cursor: one open file serves many readers.

use std::fs::File;
use std::io;

/// Fills `buffer` from `offset` bytes into the file.
///
/// Errors: `UnexpectedEof` if the file ends before.
#[cfg(unix)]
pub fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills `buffer` from `offset` bytes into the file.
///
/// Errors: `UnexpectedEof` if the file ends before.
#[cfg(windows)]
pub fn read_exact_at(file: &File, buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    let mut rest = buffer;
    while !rest.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, rest, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                rest = &mut rest[n..];
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
