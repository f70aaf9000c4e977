//! Text to tokens.
//!
//! PTX has few kinds: words (`add`, `%r1`, `$L__BB0_2`), dotted words (`.f32`, `.shared::cta`),
//! numbers, strings and single characters. A token keeps its line, since every later error names
//! it.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// An identifier or opcode.
    Word(&'a str),
    /// `.name`, without the dot: a directive or a modifier.
    Dot(&'a str),
    /// An integer literal, as two's complement.
    Integer(u64),
    /// `0f` and 8 hexadecimal digits: the bits of an f32.
    Float32(u32),
    /// `0d` and 16 of them, or a decimal: the bits of an f64.
    Float64(u64),
    /// A quoted string, without its quotes.
    Text(&'a str),
    /// Anything else, one character each.
    Mark(char),
    /// The end of the text.
    End,
}

/// A token and the line that it begins on.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// Line, from 1.
    pub line: u32,
    /// What it is.
    pub kind: Kind<'a>,
}

fn is_word_start(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%')
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$')
}

/// Cuts a text into tokens, the last of which is [`Kind::End`]. The error is a line and a message.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, (u32, String)> {
    Lexer { text, bytes: text.as_bytes(), at: 0, line: 1 }.run()
}

struct Lexer<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    /// The text from `from` to here; all cuts are next to ASCII characters.
    fn since(&self, from: usize) -> &'a str {
        self.text.get(from..self.at).unwrap_or("")
    }

    fn run(mut self) -> Result<Vec<Token<'a>>, (u32, String)> {
        // A token has about four characters on average.
        let mut tokens = Vec::with_capacity(self.bytes.len() / 4);
        loop {
            self.skip_blank()?;
            let line = self.line;
            let kind = self.token().map_err(|message| (line, message))?;
            tokens.push(Token { line, kind });
            if kind == Kind::End {
                return Ok(tokens);
            }
        }
    }

    fn skip_blank(&mut self) -> Result<(), (u32, String)> {
        while self.at < self.bytes.len() {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => {
                    self.line += 1;
                    self.at += 1;
                }
                (c, _) if c.is_ascii_whitespace() => self.at += 1,
                (b'/', b'/') => {
                    while self.at < self.bytes.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => {
                    let open = self.line;
                    self.at += 2;
                    while (self.peek(0), self.peek(1)) != (b'*', b'/') {
                        if self.at >= self.bytes.len() {
                            return Err((open, "comment without its end".into()));
                        }
                        self.line += u32::from(self.peek(0) == b'\n');
                        self.at += 1;
                    }
                    self.at += 2;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn token(&mut self) -> Result<Kind<'a>, String> {
        let from = self.at;
        let first = self.peek(0);
        if self.at >= self.bytes.len() {
            return Ok(Kind::End);
        }
        if is_word_start(first) {
            self.at += 1;
            self.skip_word();
            return Ok(Kind::Word(self.since(from)));
        }
        if first == b'.' && is_word(self.peek(1)) {
            self.at += 1;
            self.skip_word();
            while self.peek(0) == b':' && self.peek(1) == b':' && is_word(self.peek(2)) {
                self.at += 2;
                self.skip_word();
            }
            return Ok(Kind::Dot(self.since(from + 1)));
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        if first == b'"' {
            self.at += 1;
            while self.peek(0) != b'"' {
                if self.at >= self.bytes.len() || self.peek(0) == b'\n' {
                    return Err("string without its end".into());
                }
                self.at += 1;
            }
            let text = self.since(from + 1);
            self.at += 1;
            return Ok(Kind::Text(text));
        }
        if !first.is_ascii_graphic() {
            return Err(format!("a character that PTX does not have: byte {first:#04x}"));
        }
        self.at += 1;
        Ok(Kind::Mark(first as char))
    }

    fn skip_word(&mut self) {
        while is_word(self.peek(0)) {
            self.at += 1;
        }
    }

    fn number(&mut self) -> Result<Kind<'a>, String> {
        let from = self.at;
        self.skip_word();
        let word = self.since(from);
        let bad = || format!("not a number: '{word}'");
        let (prefix, rest) = word.split_at_checked(2).unwrap_or((word, ""));
        match prefix {
            "0f" | "0F" if rest.len() == 8 => {
                return u32::from_str_radix(rest, 16).map(Kind::Float32).map_err(|_| bad());
            }
            "0d" | "0D" if rest.len() == 16 => {
                return u64::from_str_radix(rest, 16).map(Kind::Float64).map_err(|_| bad());
            }
            _ => {}
        }
        let is_decimal = word.bytes().all(|c| c.is_ascii_digit());
        if is_decimal && self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
            self.at += 1;
            self.skip_word();
            if matches!(self.bytes[self.at - 1], b'e' | b'E') && matches!(self.peek(0), b'+' | b'-')
            {
                self.at += 1;
                self.skip_word();
            }
            let word = self.since(from);
            let value: f64 = word.parse().map_err(|_| format!("not a number: '{word}'"))?;
            return Ok(Kind::Float64(value.to_bits()));
        }
        let digits = word.strip_suffix('U').unwrap_or(word);
        let (digits, radix) = match digits.split_at_checked(2) {
            Some(("0x" | "0X", hex)) => (hex, 16),
            Some(("0b" | "0B", binary)) => (binary, 2),
            _ if digits.len() > 1 && digits.starts_with('0') => (&digits[1..], 8),
            _ => (digits, 10),
        };
        u64::from_str_radix(digits, radix).map(Kind::Integer).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<Kind<'_>> {
        tokens(text).expect("lexes").into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn an_instruction() {
        use Kind::*;
        assert_eq!(
            kinds("@!%p1 ld.shared::cta.v2.f32 {%f1, _}, [$x+0x10];"),
            [
                Mark('@'),
                Mark('!'),
                Word("%p1"),
                Word("ld"),
                Dot("shared::cta"),
                Dot("v2"),
                Dot("f32"),
                Mark('{'),
                Word("%f1"),
                Mark(','),
                Word("_"),
                Mark('}'),
                Mark(','),
                Mark('['),
                Word("$x"),
                Mark('+'),
                Integer(16),
                Mark(']'),
                Mark(';'),
                End,
            ]
        );
    }

    #[test]
    fn numbers() {
        use Kind::*;
        assert_eq!(
            kinds("0f3F800000 0d3FF0000000000000 1.5 017 0b101 42U 18446744073709551615 2.5e-3"),
            [
                Float32(0x3f80_0000),
                Float64(0x3ff0_0000_0000_0000),
                Float64(1.5f64.to_bits()),
                Integer(15),
                Integer(5),
                Integer(42),
                Integer(u64::MAX),
                Float64(2.5e-3f64.to_bits()),
                End,
            ]
        );
        assert_eq!(tokens("\n99999999999999999999").expect_err("too large").0, 2);
    }

    #[test]
    fn unfinished_text_is_an_error_with_its_line() {
        assert_eq!(tokens("a\n/* b\n").expect_err("open comment").0, 2);
        assert!(tokens("\"abc").is_err());
        assert!(tokens("a \u{e9}").is_err());
    }
}
