//! Arguments of a kernel on the command line.

use std::fs;

use half::{bf16, f16};

/// Type of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    Bf16,
    F32,
    F64,
}

const KINDS: [(&str, Kind, usize); 12] = [
    ("u8", Kind::U8, 1),
    ("s8", Kind::S8, 1),
    ("u16", Kind::U16, 2),
    ("s16", Kind::S16, 2),
    ("u32", Kind::U32, 4),
    ("s32", Kind::S32, 4),
    ("u64", Kind::U64, 8),
    ("s64", Kind::S64, 8),
    ("f16", Kind::F16, 2),
    ("bf16", Kind::Bf16, 2),
    ("f32", Kind::F32, 4),
    ("f64", Kind::F64, 8),
];

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    pub kind: Kind,
    pub value: Value,
}

/// What it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// The bytes of a number.
    Number(Vec<u8>),
    /// Elements of a buffer, and its bytes if it is initialised.
    Buffer { count: usize, bytes: Option<Vec<u8>> },
}

impl Kind {
    fn row(self) -> &'static (&'static str, Kind, usize) {
        // Each kind has its row, at the position of its discriminant.
        &KINDS[self as usize]
    }

    /// As on the command line.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        self.row().2
    }

    /// The number that a text stands for.
    fn read(self, text: &str) -> Result<Vec<u8>, String> {
        macro_rules! bytes {
            ($type:ty) => {
                text.parse::<$type>().map(|v| v.to_le_bytes().to_vec()).map_err(|e| e.to_string())
            };
        }
        let bytes = match self {
            Kind::U8 => bytes!(u8),
            Kind::S8 => bytes!(i8),
            Kind::U16 => bytes!(u16),
            Kind::S16 => bytes!(i16),
            Kind::U32 => bytes!(u32),
            Kind::S32 => bytes!(i32),
            Kind::U64 => bytes!(u64),
            Kind::S64 => bytes!(i64),
            Kind::F16 => bytes!(f16),
            Kind::Bf16 => bytes!(bf16),
            Kind::F32 => bytes!(f32),
            Kind::F64 => bytes!(f64),
        };
        bytes.map_err(|e| format!("\"{text}\" is no {}: {e}", self.name()))
    }

    /// The number nearest to a value; integers keep the low bits, so that `iota` wraps.
    fn nearest(self, value: f64) -> Vec<u8> {
        let integer = value as i64;
        match self {
            Kind::F16 => f16::from_f64(value).to_le_bytes().to_vec(),
            Kind::Bf16 => bf16::from_f64(value).to_le_bytes().to_vec(),
            Kind::F32 => (value as f32).to_le_bytes().to_vec(),
            Kind::F64 => value.to_le_bytes().to_vec(),
            _ => integer.to_le_bytes()[..self.bytes()].to_vec(),
        }
    }

    /// The numbers in these bytes.
    pub fn show(self, bytes: &[u8]) -> String {
        macro_rules! numbers {
            ($type:ty) => {
                bytes
                    .chunks_exact(size_of::<$type>())
                    .map(|c| <$type>::from_le_bytes(c.try_into().expect("as long")).to_string())
                    .collect()
            };
        }
        let numbers: Vec<String> = match self {
            Kind::U8 => numbers!(u8),
            Kind::S8 => numbers!(i8),
            Kind::U16 => numbers!(u16),
            Kind::S16 => numbers!(i16),
            Kind::U32 => numbers!(u32),
            Kind::S32 => numbers!(i32),
            Kind::U64 => numbers!(u64),
            Kind::S64 => numbers!(i64),
            Kind::F16 => numbers!(f16),
            Kind::Bf16 => numbers!(bf16),
            Kind::F32 => numbers!(f32),
            Kind::F64 => numbers!(f64),
        };
        numbers.join(" ")
    }
}

/// `u32:5`, `f32[1024]=iota`, `f32[..]=@FILE`.
pub fn parse(text: &str) -> Result<Argument, String> {
    let end = text.find([':', '[']).ok_or("TYPE:NUMBER or TYPE[COUNT]=CONTENTS is wanted")?;
    let kind = KINDS.iter().find(|row| row.0 == &text[..end]).map(|row| row.1);
    let kind =
        kind.ok_or_else(|| format!("\"{}\" is no type (u32, f32, bf16, ...)", &text[..end]))?;
    if let Some(number) = text[end..].strip_prefix(':') {
        return Ok(Argument { kind, value: Value::Number(kind.read(number)?) });
    }
    let (count, contents) =
        text[end + 1..].split_once("]=").ok_or("TYPE[COUNT]=CONTENTS is wanted")?;
    if let Some(path) = contents.strip_prefix('@') {
        let mut bytes = fs::read(path).map_err(|e| format!("{path}: {e}"))?;
        let has = bytes.len() / kind.bytes();
        let count = if count == ".." { has } else { parse_count(count)? };
        if count > has || count == 0 {
            return Err(format!(
                "{path} has {has} numbers of type {}, {count} are wanted",
                kind.name()
            ));
        }
        bytes.truncate(count * kind.bytes());
        return Ok(Argument { kind, value: Value::Buffer { count, bytes: Some(bytes) } });
    }
    let count = parse_count(count)?;
    let made = |value: &dyn Fn(usize) -> f64| {
        Some((0..count).flat_map(|i| kind.nearest(value(i))).collect::<Vec<u8>>())
    };
    let float = matches!(kind, Kind::F16 | Kind::Bf16 | Kind::F32 | Kind::F64);
    let bytes = match contents {
        "none" => None,
        "iota" => made(&|i| i as f64),
        "zeros" => made(&|_| 0.0),
        "ones" => made(&|_| 1.0),
        // Floats in [-1, 1), integers in 0..100; the same in every run.
        "random" if float => made(&|i| 2.0 * uniform(i as u64) - 1.0),
        "random" => made(&|i| (100.0 * uniform(i as u64)).floor()),
        number => Some(kind.read(number)?.repeat(count)),
    };
    Ok(Argument { kind, value: Value::Buffer { count, bytes } })
}

fn parse_count(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| format!("\"{text}\" is no number of elements"))
}

/// In [0, 1), by splitmix64 of the index.
fn uniform(index: u64) -> f64 {
    let mut z = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_understood_or_refused() {
        let number = |text: &str| match parse(text).unwrap().value {
            Value::Number(bytes) => bytes,
            other => panic!("{text} is {other:?}"),
        };
        assert_eq!(number("u32:5"), 5u32.to_le_bytes());
        assert_eq!(number("f32:1.5"), 1.5f32.to_le_bytes());
        assert_eq!(number("bf16:1"), [0x80, 0x3f]);
        let shown = |text: &str| match parse(text).unwrap() {
            Argument { kind, value: Value::Buffer { bytes: Some(bytes), .. } } => kind.show(&bytes),
            other => panic!("{text} is {other:?}"),
        };
        assert_eq!(shown("f32[3]=iota"), "0 1 2");
        assert_eq!(shown("s16[2]=-7"), "-7 -7");
        assert_eq!(shown("f16[2]=ones"), "1 1");
        assert_eq!(parse("u8[4]=none").unwrap().value, Value::Buffer { count: 4, bytes: None });
        for wrong in
            ["5", "u33:5", "u8:256", "f32[0]=ones", "f32[4]", "f32[..]=iota", "f32[1]=@/nowhere"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn kinds_stand_in_their_rows() {
        KINDS.iter().for_each(|row| assert_eq!(row.1.name(), row.0));
    }
}
