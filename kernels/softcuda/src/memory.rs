//! Device memory: one arena of host memory that kernels see at [`GLOBAL_BASE`], and who owns which
//! part of it.
//!
//! With checks on, a second arena of the same size holds one *shadow* byte for each device byte:
//! not allocated, allocated but never written, written, or freed. One look at the shadow tells out
//! of bounds, use after free and uninitialised apart. Allocations then have a gap of [`GRAIN`]
//! bytes between them, and freed ones rest in a quarantine until their space is needed, so that a
//! late access meets the shadow of a freed allocation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::error::{Access, Error, Leak, Result};

/// First device address. Above 2^47, where no host pointer of x86-64 or AArch64 can be.
pub const GLOBAL_BASE: u64 = 1 << 49;
/// Alignment of allocations, as the CUDA driver promises it.
pub const GRAIN: u64 = 256;

/// Shadow of a byte that belongs to nobody.
pub const NOT_ALLOCATED: u8 = 0;
/// Shadow of a byte that was allocated and not written since.
pub const UNWRITTEN: u8 = 1;
/// Shadow of a byte that holds a value.
pub const WRITTEN: u8 = 2;
/// Shadow of a byte that was freed.
pub const FREED: u8 = 3;

/// A block of zeroed bytes that are only ever touched as atomics, since blocks of a grid share
/// them.
struct Arena {
    bytes: Box<[AtomicU8]>,
    /// Bytes before the first one that is aligned to [`GRAIN`].
    skip: usize,
}

impl Arena {
    /// `None` where the system has not so much memory.
    fn new(bytes: usize) -> Option<Arena> {
        let with_margin = bytes.checked_add(GRAIN as usize)?;
        let layout = std::alloc::Layout::array::<AtomicU8>(with_margin).ok()?;
        // SAFETY: the layout is not empty, by the margin.
        let start = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<AtomicU8>();
        if start.is_null() {
            return None;
        }
        // SAFETY: the allocation has this layout (alignment 1, `with_margin` bytes), zero is a
        // valid AtomicU8, and the box is its only owner.
        let bytes =
            unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, with_margin)) };
        let skip = bytes.as_ptr().align_offset(GRAIN as usize);
        Some(Arena { bytes, skip })
    }

    fn pointer(&self) -> *mut u8 {
        self.bytes[self.skip..].as_ptr() as *mut u8
    }

    fn slice(&self, start: usize, len: usize) -> &[AtomicU8] {
        &self.bytes[self.skip..][start..start + len]
    }

    /// Bytes before the first one of a range that is aligned to 8, words of 8 bytes, bytes behind
    /// them.
    fn words(&self, start: usize, len: usize) -> (&[AtomicU8], &[AtomicU64], &[AtomicU8]) {
        // SAFETY: eight AtomicU8 have the size of an AtomicU64, any bits are valid in both, and
        // `align_to` keeps to the alignment.
        unsafe { self.slice(start, len).align_to() }
    }

    fn fill(&self, start: usize, len: usize, value: u8) {
        let (head, words, tail) = self.words(start, len);
        head.iter().chain(tail).for_each(|b| b.store(value, Relaxed));
        words.iter().for_each(|w| w.store(u64::from_ne_bytes([value; 8]), Relaxed));
    }

    fn write(&self, start: usize, bytes: &[u8]) {
        let (head, words, tail) = self.words(start, bytes.len());
        let (first, rest) = bytes.split_at(head.len());
        let (middle, last) = rest.split_at(8 * words.len());
        let ends = head.iter().zip(first).chain(tail.iter().zip(last));
        ends.for_each(|(to, &from)| to.store(from, Relaxed));
        for (to, from) in words.iter().zip(middle.chunks_exact(8)) {
            to.store(u64::from_ne_bytes(from.try_into().expect("8 bytes")), Relaxed);
        }
    }

    fn read(&self, start: usize, bytes: &mut [u8]) {
        let (head, words, tail) = self.words(start, bytes.len());
        let (first, rest) = bytes.split_at_mut(head.len());
        let (middle, last) = rest.split_at_mut(8 * words.len());
        let ends = head.iter().zip(first).chain(tail.iter().zip(last));
        ends.for_each(|(from, to)| *to = from.load(Relaxed));
        for (from, to) in words.iter().zip(middle.chunks_exact_mut(8)) {
            to.copy_from_slice(&from.load(Relaxed).to_ne_bytes());
        }
    }
}

#[derive(Clone, Copy)]
struct Allocation {
    bytes: usize,
    serial: u64,
}

/// The map of who owns what. All addresses are offsets into the arena.
#[derive(Default)]
struct Map {
    live: BTreeMap<u64, Allocation>,
    /// Freed and not given away again: start, size.
    freed: BTreeMap<u64, Allocation>,
    quarantine: VecDeque<u64>,
    /// Free ranges: start, length. Never adjacent.
    free: BTreeMap<u64, u64>,
    serial: u64,
    used: u64,
}

/// Memory of a device.
pub struct Memory {
    arena: Arena,
    shadow: Option<Arena>,
    bytes: usize,
    quarantined: bool,
    map: Mutex<Map>,
}

impl Memory {
    /// Memory of so many bytes, rounded up to [`GRAIN`]; `checked` keeps a shadow. The system gives
    /// pages as they are touched.
    pub fn new(bytes: usize, checked: bool) -> Result<Memory> {
        let out = Error::OutOfMemory { asked: bytes, free: 0, total: 0 };
        let bytes = bytes.max(1).checked_next_multiple_of(GRAIN as usize).ok_or(out.clone())?;
        let arena = Arena::new(bytes).ok_or(out.clone())?;
        let shadow = if checked { Some(Arena::new(bytes).ok_or(out)?) } else { None };
        let map = Map { free: BTreeMap::from([(0, bytes as u64)]), ..Map::default() };
        Ok(Memory { arena, shadow, bytes, quarantined: checked, map: Mutex::new(map) })
    }

    fn map(&self) -> std::sync::MutexGuard<'_, Map> {
        // The map is consistent between any two statements that can panic (there are none): poison
        // means nothing.
        self.map.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Bytes of the device.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes that are not allocated.
    pub fn free_bytes(&self) -> usize {
        self.bytes - self.map().used as usize
    }

    /// Host address of the first device byte: valid for `bytes()` bytes as long as the memory
    /// lives.
    pub fn pointer(&self) -> *mut u8 {
        self.arena.pointer()
    }

    /// Host address of the shadow of the first device byte, where there is one.
    pub fn shadow(&self) -> Option<*mut u8> {
        self.shadow.as_ref().map(Arena::pointer)
    }

    fn mark(&self, start: u64, bytes: usize, state: u8) {
        if let Some(shadow) = &self.shadow {
            shadow.fill(start as usize, bytes, state);
        }
    }

    /// See [`crate::Device::alloc`].
    pub fn alloc(&self, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Err(Error::EmptyAllocation);
        }
        let mut map = self.map();
        let gap = if self.quarantined { GRAIN } else { 0 };
        let out = Error::OutOfMemory {
            asked: bytes,
            free: self.bytes - map.used as usize,
            total: self.bytes,
        };
        let span = (bytes as u64).checked_next_multiple_of(GRAIN).and_then(|b| b.checked_add(gap));
        let span = span.filter(|&s| s <= self.bytes as u64 + gap).ok_or(out.clone())?;
        let start = loop {
            match map.take(span, gap) {
                Some(start) => break start,
                None => self.release_oldest(&mut map).ok_or(out.clone())?,
            }
        };
        map.serial += 1;
        map.used += bytes as u64;
        let serial = map.serial;
        map.live.insert(start, Allocation { bytes, serial });
        self.mark(start, bytes, UNWRITTEN);
        Ok(GLOBAL_BASE + start)
    }

    /// Gives the oldest allocation of the quarantine back; `None` where it is empty.
    fn release_oldest(&self, map: &mut Map) -> Option<()> {
        let start = map.quarantine.pop_front()?;
        let old = map.freed.remove(&start)?;
        self.mark(start, old.bytes, NOT_ALLOCATED);
        map.give(start, (old.bytes as u64).next_multiple_of(GRAIN) + GRAIN, self.bytes as u64);
        Some(())
    }

    /// See [`crate::Device::free`].
    pub fn free(&self, pointer: u64) -> Result<()> {
        let mut map = self.map();
        let start = pointer.wrapping_sub(GLOBAL_BASE);
        let Some(old) = map.live.remove(&start) else {
            return Err(Error::BadFree { pointer, nearby: map.nearby(start) });
        };
        map.used -= old.bytes as u64;
        if self.quarantined {
            self.mark(start, old.bytes, FREED);
            map.freed.insert(start, old);
            map.quarantine.push_back(start);
        } else {
            map.give(start, (old.bytes as u64).next_multiple_of(GRAIN), self.bytes as u64);
        }
        Ok(())
    }

    /// Start and bytes of the live allocation around an address.
    pub fn allocation(&self, pointer: u64) -> Option<(u64, usize)> {
        let at = pointer.wrapping_sub(GLOBAL_BASE);
        let map = self.map();
        let (&start, allocation) = map.live.range(..=at).next_back()?;
        (at - start < allocation.bytes as u64).then_some((GLOBAL_BASE + start, allocation.bytes))
    }

    /// What lies at and around an address, in words.
    pub fn nearby(&self, pointer: u64) -> String {
        self.map().nearby(pointer.wrapping_sub(GLOBAL_BASE))
    }

    /// Whether an address lies in an allocation that was freed.
    pub fn is_freed(&self, pointer: u64) -> bool {
        let at = pointer.wrapping_sub(GLOBAL_BASE);
        let map = self.map();
        map.freed.range(..=at).next_back().is_some_and(|(s, a)| at - s < a.bytes as u64)
    }

    /// The offset of a range that lies in one live allocation.
    fn range(&self, access: Access, pointer: u64, bytes: usize) -> Result<usize> {
        let at = pointer.wrapping_sub(GLOBAL_BASE);
        let map = self.map();
        let inside = map.live.range(..=at).next_back().is_some_and(|(&start, a)| {
            let from = at - start;
            from <= a.bytes as u64 && bytes as u64 <= a.bytes as u64 - from
        });
        if inside {
            return Ok(at as usize);
        }
        Err(Error::HostAccess { access, pointer, bytes, nearby: map.nearby(at) })
    }

    /// See [`crate::Device::write`].
    pub fn write(&self, pointer: u64, bytes: &[u8]) -> Result<()> {
        let at = self.range(Access::Write, pointer, bytes.len())?;
        self.arena.write(at, bytes);
        self.mark(at as u64, bytes.len(), WRITTEN);
        Ok(())
    }

    /// See [`crate::Device::read`].
    pub fn read(&self, pointer: u64, bytes: &mut [u8]) -> Result<()> {
        let at = self.range(Access::Read, pointer, bytes.len())?;
        self.arena.read(at, bytes);
        Ok(())
    }

    /// See [`crate::Device::copy`]. What was not written stays so: the shadow is copied too.
    pub fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        let source = self.range(Access::Read, from, bytes)?;
        let target = self.range(Access::Write, to, bytes)?;
        for arena in [Some(&self.arena), self.shadow.as_ref()].into_iter().flatten() {
            let mut values = vec![0; bytes];
            arena.read(source, &mut values);
            arena.write(target, &values);
        }
        Ok(())
    }

    /// See [`crate::Device::fill`].
    pub fn fill(&self, pointer: u64, pattern: &[u8], count: usize) -> Result<()> {
        if !matches!(pattern.len(), 1 | 2 | 4) || !pointer.is_multiple_of(pattern.len() as u64) {
            return Err(Error::BadPattern { pointer, bytes: pattern.len() });
        }
        let bytes = count.saturating_mul(pattern.len());
        let at = self.range(Access::Write, pointer, bytes)?;
        if pattern.iter().all(|&b| b == pattern[0]) {
            self.arena.fill(at, bytes, pattern[0]);
        } else {
            self.arena.write(at, &pattern.repeat(count));
        }
        self.mark(at as u64, bytes, WRITTEN);
        Ok(())
    }

    /// All live allocations, oldest first.
    pub fn leaks(&self) -> Vec<Leak> {
        let map = self.map();
        let leak = |(&start, a): (&u64, &Allocation)| Leak {
            pointer: GLOBAL_BASE + start,
            bytes: a.bytes,
            serial: a.serial,
        };
        let mut leaks: Vec<Leak> = map.live.iter().map(leak).collect();
        leaks.sort_by_key(|l| l.serial);
        leaks
    }
}

impl Map {
    /// First fit. The gap at the end of a span may hang over the end of memory.
    fn take(&mut self, span: u64, gap: u64) -> Option<u64> {
        let (start, len) = self
            .free
            .iter()
            .map(|(&s, &l)| (s, l))
            .find(|&(_, len)| len + gap >= span && len > 0)?;
        self.free.remove(&start);
        if len > span {
            self.free.insert(start + span, len - span);
        }
        Some(start)
    }

    fn give(&mut self, mut start: u64, len: u64, end_of_memory: u64) {
        let mut end = (start + len).min(end_of_memory);
        if let Some((&before, &before_len)) = self.free.range(..start).next_back()
            && before + before_len == start
        {
            self.free.remove(&before);
            start = before;
        }
        if let Some(after_len) = self.free.remove(&end) {
            end += after_len;
        }
        self.free.insert(start, end - start);
    }

    fn nearby(&self, at: u64) -> String {
        let describe = |kind: &str, start: u64, a: &Allocation| {
            let end = start + a.bytes as u64;
            let where_to = match at {
                _ if at >= end => format!("{} bytes past the end of", at - end),
                _ if at < start => format!("{} bytes before", start - at),
                _ => format!("at byte {} of", at - start),
            };
            let (pointer, bytes, serial) = (GLOBAL_BASE + start, a.bytes, a.serial);
            format!(
                "{where_to} the {kind}allocation of {bytes} bytes at {pointer:#x} (number {serial})"
            )
        };
        if let Some((&start, a)) = self.freed.range(..=at).next_back()
            && at - start < a.bytes as u64
        {
            return describe("freed ", start, a);
        }
        let before = self.live.range(..=at).next_back();
        let after = self.live.range(at..).next();
        let end = |s: u64, a: &Allocation| s + a.bytes as u64;
        match (before, after) {
            (Some((&s, a)), _) if at < end(s, a) => describe("", s, a),
            (Some((&s, a)), Some((&n, _))) if at - end(s, a) <= n - at => describe("", s, a),
            (_, Some((&n, b))) if n - at < 1 << 32 => describe("", n, b),
            (Some((&s, a)), _) if at - end(s, a) < 1 << 32 => describe("", s, a),
            _ => "no allocation is near".to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_ranges_join_and_are_given_again() {
        let memory = Memory::new(1024, false).expect("memory");
        let all: Vec<u64> = (0..4).map(|_| memory.alloc(256).expect("fits")).collect();
        assert!(matches!(memory.alloc(1), Err(Error::OutOfMemory { free: 0, .. })));
        for pointer in [all[1], all[3], all[2]] {
            memory.free(pointer).expect("live");
        }
        assert_eq!(memory.alloc(768), Ok(all[1]));
        assert_eq!(memory.leaks().iter().map(|l| l.serial).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn the_quarantine_names_what_was_freed_and_gives_way() {
        let memory = Memory::new(1024, true).expect("memory");
        let first = memory.alloc(500).expect("fits");
        memory.free(first).expect("live");
        assert!(
            memory.nearby(first + 8).contains("at byte 8 of the freed allocation of 500 bytes")
        );
        let double = memory.free(first).expect_err("freed twice").to_string();
        assert!(double.contains("freed allocation"), "{double}");
        assert_eq!(memory.alloc(1024), Ok(first));
    }

    #[test]
    fn host_accesses_stay_inside_an_allocation() {
        let memory = Memory::new(4096, true).expect("memory");
        let pointer = memory.alloc(100).expect("fits");
        memory.write(pointer + 96, &[1, 2, 3, 4]).expect("inside");
        let error = memory.write(pointer + 97, &[0; 4]).expect_err("one byte too far").to_string();
        assert!(error.contains("at byte 97 of the allocation of 100 bytes"), "{error}");
        assert!(memory.fill(pointer, &[1, 2, 3], 1).is_err());
        memory.fill(pointer, &[7, 8], 50).expect("fits exactly");
        memory.copy(pointer + 1, pointer, 99).expect("overlaps");
        let mut bytes = [0; 4];
        memory.read(pointer, &mut bytes).expect("inside");
        assert_eq!(bytes, [7, 7, 8, 7]);
        assert!(memory.read(pointer + u64::MAX / 2, &mut bytes).is_err());
    }
}
