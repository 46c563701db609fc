//! Tiles as bytes: compress and checksum on the way out, decompress and verify on the way in.

use super::wire::{Codec, MAX_EXPANSION, MAX_RATIO};
use std::{cell::RefCell, io};
use xxhash_rust::xxh3::xxh3_64;

/// A tile ready to be written.
#[derive(Debug)]
pub(crate) struct EncodedTile {
    pub(crate) codec: Codec,
    pub(crate) stored: Vec<u8>,
    pub(crate) raw_bytes: usize,
    /// xxh3-64 of the raw bytes.
    pub(crate) checksum: u64,
}

/// Compresses `raw` as one zstd frame, or keeps it raw where that gains less than `min_gain_percent`.
pub(crate) fn encode(raw: Vec<u8>, zstd_level: i32, min_gain_percent: u8) -> io::Result<EncodedTile> {
    let (raw_bytes, checksum) = (raw.len(), xxh3_64(&raw));
    let stored = if min_gain_percent > 100 { None } else { Some(compress(&raw, zstd_level)?) };
    match stored.filter(|frame| worthwhile(raw_bytes, frame.len(), min_gain_percent)) {
        Some(stored) => Ok(EncodedTile { codec: Codec::Zstd, stored, raw_bytes, checksum }),
        None => Ok(EncodedTile { codec: Codec::Raw, stored: raw, raw_bytes, checksum }),
    }
}

/// Tiles smaller than this may gain as much as they can: they are vectors, which are few.
const SMALL_TILE_BYTES: usize = 64 << 10;

/// Whether a frame saves enough, and not so much that a reader would take it, or the file as a whole, for a bomb.
pub(crate) fn worthwhile(raw_bytes: usize, frame_bytes: usize, min_gain_percent: u8) -> bool {
    let keep_percent = 100 - u64::from(min_gain_percent.min(100));
    let most = if raw_bytes < SMALL_TILE_BYTES { MAX_RATIO } else { MAX_EXPANSION };
    (frame_bytes as u64) * 100 <= raw_bytes as u64 * keep_percent
        && (raw_bytes as u64) <= most * frame_bytes as u64
        && frame_bytes < raw_bytes
}

/// The gain that a tile must bring, in percent, given how the tensor's first tile is stored: gains of 4-bit codes lie so
/// near the limit that tile by tile half a tensor would be raw, and neither be mapped nor be read as one stream of frames.
pub(crate) fn gain_after(first: Option<Codec>, min_gain_percent: u8) -> u8 {
    match first {
        Some(Codec::Zstd) if min_gain_percent <= 100 => 0,
        Some(Codec::Raw) if min_gain_percent <= 100 => min_gain_percent.saturating_mul(3).min(100),
        _ => min_gain_percent,
    }
}

thread_local! {
    // A context is about 150 KB of tables: allocating one per tile would cost more than small tiles themselves.
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// One zstd frame.
pub(crate) fn compress(raw: &[u8], level: i32) -> io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(l, _)| *l != level) {
            *slot = Some((level, zstd::bulk::Compressor::new(level)?));
        }
        match slot {
            Some((_, compressor)) => compressor.compress(raw),
            None => Err(io::Error::other("no compressor")),
        }
    })
}

/// Decompresses `frame` into exactly `out`; the reason when that is not what it holds. Never writes or allocates more.
pub(crate) fn decompress(frame: &[u8], out: &mut [u8]) -> Result<(), String> {
    let got = DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new()?);
        }
        match slot {
            Some(decompressor) => decompressor.decompress_to_buffer(frame, out),
            None => Err(io::Error::other("no decompressor")),
        }
    });
    match got {
        Ok(n) if n == out.len() => Ok(()),
        Ok(n) => Err(format!("decompresses to {n} bytes, must be {}", out.len())),
        Err(e) => Err(format!("does not decompress: {e}")),
    }
}

/// Whether `raw` is what was written.
pub(crate) fn verify(raw: &[u8], checksum: u64) -> Result<(), String> {
    if xxh3_64(raw) == checksum {
        Ok(())
    } else {
        Err("checksum is wrong: the file is damaged; copy or import it again".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_compressed_where_it_pays() {
        let noise: Vec<u8> = (0..10_000u64).map(|i| (xxh3_64(&i.to_le_bytes()) >> 11) as u8).collect();
        let half: Vec<u8> = noise.iter().map(|b| b & 0x0F).collect();
        for (raw, gain, codec) in [
            (noise.clone(), 5, Codec::Raw),
            (half.clone(), 5, Codec::Zstd),
            (half.clone(), 60, Codec::Raw),
            (half, 101, Codec::Raw),
            (vec![0; 10_000], 5, Codec::Zstd),
            // Would decompress to more than MAX_EXPANSION or MAX_RATIO times its size.
            (vec![0; 100_000], 5, Codec::Raw),
            (vec![0; 10_000_000], 5, Codec::Raw),
            (Vec::new(), 5, Codec::Raw),
        ] {
            let tile = encode(raw.clone(), 3, gain).unwrap();
            assert_eq!((tile.codec, tile.raw_bytes), (codec, raw.len()));
            let mut out = vec![1; raw.len()];
            match codec {
                Codec::Raw => out.copy_from_slice(&tile.stored),
                Codec::Zstd => decompress(&tile.stored, &mut out).unwrap(),
            }
            assert_eq!(out, raw);
            verify(&out, tile.checksum).unwrap();
        }
    }

    #[test]
    fn frames_of_another_length_are_refused() {
        let frame = compress(&[7; 1000], 3).unwrap();
        for len in [0, 999, 1001] {
            assert!(decompress(&frame, &mut vec![0; len]).is_err(), "{len}");
        }
        assert!(decompress(&frame[..frame.len() - 1], &mut [0; 1000]).is_err());
        assert!(decompress(&[], &mut [0; 1000]).is_err());
        assert!(decompress(&[frame.clone(), vec![0]].concat(), &mut [0; 1000]).is_err());
        assert!(decompress(&frame, &mut [0; 1000]).is_ok(), "a context survives its errors");
    }
}
