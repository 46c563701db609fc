//! How long a template, its tags and its chains of branches may be, measured before anything parses them.
//!
//! The engine's parser, compiler and syntax tree are recursive: brackets and blocks are counted there, but `not not …`,
//! `a.b.b …`, `a|f|f …`, `a if b else …` and `{% elif %}` take stack for every link of the chain. Tags are cut here by the
//! engine's own lexer, so that what is measured is what will be parsed.

use minijinja::{machinery::Token, machinery::tokenize, syntax::SyntaxConfig};

/// Longest template. The longest that are published have some 30 KB.
pub(super) const MAX_SOURCE_BYTES: usize = 256 << 10;
/// Words, signs and texts of one tag as it was written. In published templates the longest have a few hundred.
const MAX_TAG_TOKENS: usize = 4000;
/// The same once the tag is translated: an operator becomes the call of a filter.
const MAX_TRANSLATED_TOKENS: usize = 8 * MAX_TAG_TOKENS;
/// `{% elif %}` in a template: each lies inside the one before.
const MAX_ELIFS: usize = 1000;

/// Refuses a template as it was written, by the line, when a tag of it is too long.
pub(super) fn check(source: &str, syntax: &SyntaxConfig) -> Result<(), (usize, String)> {
    measure(source, syntax, MAX_TAG_TOKENS)
}

/// The same for its translation.
pub(super) fn check_translated(translated: &str, syntax: &SyntaxConfig) -> Result<(), (usize, String)> {
    measure(translated, syntax, MAX_TRANSLATED_TOKENS)
}

fn measure(source: &str, syntax: &SyntaxConfig, most: usize) -> Result<(), (usize, String)> {
    let (mut in_tag, mut elifs, mut first) = (0, 0, false);
    for token in tokenize(source, false, syntax.clone()) {
        // What cannot be cut is not parsed any further either.
        let Ok((token, span)) = token else { return Ok(()) };
        // Spans count lines in 16 bits.
        let line = || source[..(span.start_offset as usize).min(source.len())].matches('\n').count() + 1;
        match token {
            Token::VariableStart
            | Token::BlockStart
            | Token::VariableEnd
            | Token::BlockEnd
            | Token::TemplateData(_) => {
                (in_tag, first) = (0, true);
                continue;
            }
            Token::Ident("elif") if first => elifs += 1,
            _ => {}
        }
        first = false;
        in_tag += 1;
        if in_tag > most {
            return Err((line(), format!("an expression of more than {MAX_TAG_TOKENS} words and signs")));
        }
        if elifs > MAX_ELIFS {
            return Err((line(), format!("more than {MAX_ELIFS} branches by elif")));
        }
    }
    Ok(())
}
