//! Integer instructions of one lane that Rust has no operator for.

/// `bfe.u32`: `len` bits from `pos` up.
#[inline(always)]
pub fn bfe_u32(a: u32, pos: u32, len: u32) -> u32 {
    bfe_u64(a.into(), pos, len) as u32
}

/// `bfe.u64`
#[inline(always)]
pub fn bfe_u64(a: u64, pos: u32, len: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    let shifted = if pos > 63 { 0 } else { a >> pos };
    if len > 63 { shifted } else { shifted & ((1 << len) - 1) }
}

/// `bfe.s32`: the field's highest bit (or that of `a`, if the field ends above it) is the sign.
#[inline(always)]
pub fn bfe_s32(a: i32, pos: u32, len: u32) -> i32 {
    bfe_signed(a.into(), pos, len, 31) as i32
}

/// `bfe.s64`
#[inline(always)]
pub fn bfe_s64(a: i64, pos: u32, len: u32) -> i64 {
    bfe_signed(a, pos, len, 63)
}

#[inline(always)]
fn bfe_signed(a: i64, pos: u32, len: u32, msb: u32) -> i64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 {
        return 0;
    }
    let top = (pos + len - 1).min(msb);
    // Cuts off what is above the field, then shifts its first bit to the right; beyond the top only
    // the sign is left.
    let up = a << (63 - top);
    let down = (63 - top) + pos;
    up >> down.min(63)
}

/// `bfi`: the low `len` bits of `a`, put into `b` from `pos` up.
#[inline(always)]
pub fn bfi(a: u64, b: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 0xff, len & 0xff);
    if len == 0 || pos >= bits {
        return b;
    }
    let ones = if len > 63 { u64::MAX } else { (1 << len) - 1 };
    let mask = ones << pos;
    (b & !mask) | (a << pos & mask)
}

/// `prmt` in its default mode: each nibble of the selector picks a byte of b:a, or its sign.
#[inline(always)]
pub fn prmt(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let mut d = 0;
    for i in 0..4 {
        let nibble = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (nibble & 7))) as u32 & 0xff;
        let byte = if nibble & 8 != 0 { if byte & 0x80 != 0 { 0xff } else { 0 } } else { byte };
        d |= byte << (8 * i);
    }
    d
}

/// `lop3`: any function of three bits, as a table of 8.
#[inline(always)]
pub fn lop3(a: u32, b: u32, c: u32, table: u64) -> u32 {
    let mut d = 0;
    for i in 0..8u32 {
        let term = (if i & 4 != 0 { a } else { !a })
            & (if i & 2 != 0 { b } else { !b })
            & (if i & 1 != 0 { c } else { !c });
        d |= if table >> i & 1 != 0 { term } else { 0 };
    }
    d
}

/// `shf.l`: the high word of b:a, shifted left.
#[inline(always)]
pub fn shf_left(a: u32, b: u32, n: u32) -> u32 {
    ((u64::from(b) << 32 | u64::from(a)) << n >> 32) as u32
}

/// `shf.r`: the low word of b:a, shifted right.
#[inline(always)]
pub fn shf_right(a: u32, b: u32, n: u32) -> u32 {
    ((u64::from(b) << 32 | u64::from(a)) >> n) as u32
}

/// Sum of four products of bytes, each signed or not.
#[inline(always)]
pub fn dp4a<const A: bool, const B: bool>(a: u32, b: u32, c: u32) -> u32 {
    let byte = |v: u32, i: u32, signed: bool| {
        let byte = (v >> (8 * i)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    let mut d = c;
    for i in 0..4 {
        d = d.wrapping_add((byte(a, i, A) * byte(b, i, B)) as u32);
    }
    d
}

/// `dp2a`: two halves of `a` with the low or high two bytes of `b`.
#[inline(always)]
pub fn dp2a<const A: bool, const B: bool, const HIGH: bool>(a: u32, b: u32, c: u32) -> u32 {
    let half = |i: u32| {
        let half = (a >> (16 * i)) as u16;
        if A { i32::from(half as i16) } else { i32::from(half) }
    };
    let byte = |i: u32| {
        let byte = (b >> (8 * (i + if HIGH { 2 } else { 0 }))) as u8;
        if B { i32::from(byte as i8) } else { i32::from(byte) }
    };
    (0..2).fold(c, |d, i| d.wrapping_add(half(i).wrapping_mul(byte(i)) as u32))
}

/// `bfind`: position of the highest 1, or of the highest bit unlike the sign; all ones if there is
/// none.
#[inline(always)]
pub fn bfind(a: u64, bits: u32, signed: bool) -> u32 {
    let negative = signed && a >> (bits - 1) & 1 != 0;
    let all = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let a = if negative { !a & all } else { a };
    if a == 0 { u32::MAX } else { 63 - a.leading_zeros() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        assert_eq!(bfe_u32(0xabcd_1234, 8, 8), 0x12);
        assert_eq!(bfe_u32(0xabcd_1234, 24, 16), 0xab);
        assert_eq!(
            (bfe_u32(5, 40, 3), bfe_u32(5, 0, 0), bfe_u32(u32::MAX, 0, 32)),
            (0, 0, u32::MAX)
        );
        assert_eq!(bfe_s32(0x0000_00f0, 4, 4), -1);
        assert_eq!(bfe_s32(0x0000_0070, 4, 4), 7);
        assert_eq!((bfe_s32(-5, 28, 8), bfe_s32(-5, 40, 8), bfe_s32(5, 40, 8)), (-1, -1, 0));
        assert_eq!(bfe_s64(i64::MIN, 60, 4), -8);
        assert_eq!(bfi(0xff, 0, 4, 4, 32), 0xf0);
        assert_eq!((bfi(1, 7, 33, 2, 32), bfi(1, 7, 0, 0, 32)), (7, 7));
    }

    #[test]
    fn bytes_and_tables() {
        assert_eq!(prmt(0x3322_1100, 0x7766_5544, 0x0123), 0x0011_2233);
        assert_eq!(prmt(0x0000_0080, 0, 0x0008), 0x0000_00ff | 0x8080_8000 & 0xffff_ff00);
        assert_eq!(lop3(0xff00, 0xf0f0, 0xcccc, 0xea), (0xff00 & 0xf0f0) | 0xcccc);
        assert_eq!(lop3(0xff00, 0xf0f0, 0xcccc, 0x96), 0xff00 ^ 0xf0f0 ^ 0xcccc);
        assert_eq!(dp4a::<true, true>(0xff02_0304, 0x0201_0101, 10), (10 - 2 + 2 + 3 + 4) as u32);
        assert_eq!(dp4a::<false, true>(0xff00_0000, 0xff00_0000, 0), -255i32 as u32);
        assert_eq!(dp2a::<true, true, true>(0xffff_0002, 0x0304_0000, 0), (2 * 4 - 3) as u32);
        assert_eq!((bfind(0, 32, false), bfind(0x10, 32, false)), (u32::MAX, 4));
        assert_eq!(bfind(0xffff_fff0, 32, true), 3);
        assert_eq!((shf_left(0x8000_0000, 1, 1), shf_right(0, 1, 4)), (3, 0x1000_0000));
    }
}
