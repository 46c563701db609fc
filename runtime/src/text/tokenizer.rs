//! Text to tokens and back, as the model's `tokenizer.json` says.
//!
//! Invariants: damaged files and any text or token ids give an error or a result, never a panic; [`Tokenizer::decode`]
//! equals the joined pieces of a [`TextStream`](super::TextStream) over the same tokens.
//!
//! Used by sessions, the importer (calibration text) and the command line.

use super::{
    ChatPrompt, TextError, TextStream,
    cut::Cutter,
    decoder::Decoder,
    error::no_panic,
    json,
    normalize::{Normalizer, heeded},
    stack::with_stack,
};
use coexec_model::{TokenId, TokenizerData};
use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, OnceLock},
};
use tokenizers::{
    AddedToken, DecoderWrapper, Model as _, ModelWrapper, PostProcessorWrapper, TokenizerImpl, models::unigram::Unigram,
};

/// The library's tokenizer, with its texts normalised and cut here.
type Library = TokenizerImpl<ModelWrapper, Normalizer, Cutter, PostProcessorWrapper, DecoderWrapper>;

/// A token before a part of a text that does not begin it.
const BEFORE: &str = "\u{FDD0}before\u{FDD0}";

/// Whether a text is a whole prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A whole prompt: what the model wants around it (its BOS token, as a rule) is added, unless it is there already.
    AddBos,
    /// A part of a text: nothing is added.
    Plain,
}

/// Tokens that end a turn or a text in the usual chat formats.
const USUAL_END_TOKENS: [&str; 12] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<end_of_turn>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<|return|>",
    "<eos>",
    "</s>",
];

/// A model's vocabulary and how text is cut into it. Cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    library: Library,
    /// The same, for which special tokens in a text are text; made when it is needed.
    plain: OnceLock<Plain>,
    decoder: Decoder,
    bos: Option<TokenId>,
    /// BOS is missing in `tokenizer.json` although the model wants it.
    add_bos: bool,
    /// What the post-processor puts around an empty text starts with BOS.
    processor_adds_bos: bool,
    end_tokens: Vec<TokenId>,
    vocab_size: usize,
}

/// A tokenizer for which special tokens are text.
struct Plain {
    library: Library,
    /// What stands for text that the vocabulary lacks.
    unknown: Option<u32>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { decoder, bos, vocab_size, .. } = &*self.inner;
        f.debug_struct("Tokenizer")
            .field("vocab_size", vocab_size)
            .field("bos", bos)
            .field("decoder", decoder)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The tokenizer of a model; `None` if the model has no text (`tokenizer_json` is empty).
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] if the file is damaged, [`TextError::UnsupportedDecoder`],
    /// [`TextError::UnknownBos`] if `add_bos` is set but the vocabulary has no such token.
    pub fn new(data: &TokenizerData) -> Result<Option<Self>, TextError> {
        if data.tokenizer_json.trim().is_empty() {
            return Ok(None);
        }
        let loaded = with_stack(|| Self::load(data));
        loaded.unwrap_or_else(|cause| Err(TextError::Tokenizer { cause }))
    }

    fn load(data: &TokenizerData) -> Result<Option<Self>, TextError> {
        let unusable = |cause: String| TextError::Tokenizer { cause };
        let (library, decoder_json) = no_panic(
            || {
                json::check(&data.tokenizer_json)?;
                let mut library: Library = serde_json::from_str(&data.tokenizer_json).map_err(json::short)?;
                // Prompts are never cut or filled up: the file may still say so from its training.
                library.with_truncation(None).map_err(|e| e.to_string())?;
                library.with_padding(None);
                let decoder = serde_json::to_value(library.get_decoder()).map_err(|e| e.to_string())?;
                Ok((library, decoder))
            },
            unusable,
        )?;
        let decoder = Decoder::new(&decoder_json)?;
        let (vocab_size, end_tokens) =
            no_panic(|| Ok((library.get_vocab_size(true), end_tokens(&library, data))), unusable)?;
        let mut inner = Inner {
            library,
            plain: OnceLock::new(),
            decoder,
            bos: None,
            add_bos: data.add_bos,
            processor_adds_bos: false,
            end_tokens,
            vocab_size,
        };
        let added = inner.encode("", true).map_err(|cause| TextError::Tokenizer { cause })?;
        let named = data.bos_token.as_deref().and_then(|bos| inner.id_of(bos));
        if data.add_bos && named.is_none() {
            return Err(TextError::UnknownBos { token: data.bos_token.clone().unwrap_or_default() });
        }
        // Where the model does not name its BOS, it is what the post-processor puts first.
        inner.bos = named.or_else(|| added.first().copied().filter(|_| data.bos_token.is_none()));
        inner.processor_adds_bos = inner.bos.is_some() && added.first() == inner.bos.as_ref();
        Ok(Some(Self { inner: Arc::new(inner) }))
    }

    /// Cuts `text` into tokens. Special tokens written out in the text, as chat templates do, are recognised.
    ///
    /// With [`Special::AddBos`] the result starts with the model's BOS exactly once, if the model wants one: a text
    /// that begins with BOS itself gets no second.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<TokenId>, TextError> {
        let inner = &*self.inner;
        let mut ids = inner
            .encode(text, special == Special::AddBos)
            .map_err(|cause| TextError::Encode { text_bytes: text.len(), cause })?;
        if let (Special::AddBos, Some(bos)) = (special, inner.bos) {
            if inner.processor_adds_bos && ids.starts_with(&[bos, bos]) {
                ids.remove(0);
            } else if inner.add_bos && ids.first() != Some(&bos) {
                ids.insert(0, bos);
            }
        }
        Ok(ids)
    }

    /// The tokens of a rendered conversation: what the template wrote is encoded as it stands, with its special tokens, and
    /// nothing is put around it; what a user typed is text, whatever it looks like.
    ///
    /// The ids of text without special tokens are those of [`Self::encode`].
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn encode_chat(&self, prompt: &ChatPrompt) -> Result<Vec<TokenId>, TextError> {
        let text = prompt.text();
        let mut ids = Vec::new();
        for part in prompt.parts(&self.special_tokens()) {
            let piece = &text[part.range.clone()];
            match part.plain {
                true => ids.extend(self.encode_plain(piece, part.range.start > 0)?),
                false => ids.extend(self.encode(piece, Special::Plain)?),
            }
        }
        Ok(ids)
    }

    /// Encodes a part of a text in which special tokens are text; `continues` if something stands before it.
    fn encode_plain(&self, text: &str, continues: bool) -> Result<Vec<TokenId>, TextError> {
        let refused = |cause: String| TextError::Encode { text_bytes: text.len(), cause };
        if text.contains(BEFORE) {
            return Err(refused("it contains coexec's own mark".to_owned()));
        }
        let plain = self.inner.plain.get_or_init(|| Plain::new(&self.inner.library, &self.special_tokens()));
        let whole = if continues { format!("{BEFORE}{text}") } else { text.to_owned() };
        let work = || heeded(|| plain.library.encode_fast(whole, false).map_err(|e| e.to_string()));
        let encoding = no_panic(work, refused)?;
        let ids = encoding.get_ids().iter().skip(usize::from(continues));
        let made = ids.clone().find(|id| Some(**id) != plain.unknown && self.is_special(TokenId(**id)));
        if let Some(id) = made {
            let token = self.token_text(TokenId(*id)).unwrap_or_default();
            return Err(refused(format!(
                "this tokenizer makes the special token {token:?} of ordinary text: leave it out, or let special tokens count"
            )));
        }
        Ok(ids.map(|&id| TokenId(id)).collect())
    }

    /// The special tokens, as they are found in texts.
    pub(super) fn special_tokens(&self) -> Vec<AddedToken> {
        let added = self.inner.library.get_added_vocabulary().get_added_tokens_decoder();
        added.values().filter(|token| token.special && !token.content.is_empty()).cloned().collect()
    }

    /// The text of `tokens`, special tokens left out. Ids without a token have no text.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn decode(&self, tokens: &[TokenId]) -> Result<String, TextError> {
        TextStream::new(self).whole(tokens)
    }

    /// As [`Self::decode`], special tokens written out.
    ///
    /// # Errors
    /// [`TextError::Decode`].
    pub fn decode_with_special(&self, tokens: &[TokenId]) -> Result<String, TextError> {
        TextStream::with_special(self).whole(tokens)
    }

    /// The token as the vocabulary spells it (`Ġthe`, `▁the`, `<0x0A>`), or `None` if there is no such token.
    #[must_use]
    pub fn token_text(&self, id: TokenId) -> Option<String> {
        self.inner.library.id_to_token(id.0)
    }

    /// The id of a token as the vocabulary spells it.
    #[must_use]
    pub fn id_of(&self, token: &str) -> Option<TokenId> {
        self.inner.id_of(token)
    }

    /// Number of tokens. The model's own `vocab_size` can be larger: rows without a token.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab_size
    }

    /// The BOS token, if the model has one, whether or not prompts start with it.
    #[must_use]
    pub fn bos(&self) -> Option<TokenId> {
        self.inner.bos
    }

    /// Whether a prompt starts with BOS.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.inner.bos.is_some() && (self.inner.add_bos || self.inner.processor_adds_bos)
    }

    /// Whether the token is special: structure, not text.
    #[must_use]
    pub fn is_special(&self, id: TokenId) -> bool {
        self.token_text(id).is_some_and(|token| self.inner.library.get_added_vocabulary().is_special_token(&token))
    }

    /// Tokens that usually end a generation and are special in this vocabulary: the model's own `eos_token` first,
    /// then those of the common chat formats.
    ///
    /// For models whose configuration names fewer end tokens than their chat format uses.
    #[must_use]
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.inner.end_tokens
    }

    /// The text of a token as it goes into the decoder; `None` if it has none or is not wanted.
    pub(super) fn spelling(&self, id: TokenId, keep_special: bool) -> Option<String> {
        let spelling = self.inner.library.id_to_token(id.0)?;
        let special = !keep_special && self.inner.library.get_added_vocabulary().is_special_token(&spelling);
        (!special).then_some(spelling)
    }

    /// Whether the token stands beside the vocabulary, special or not.
    pub(super) fn is_added(&self, id: TokenId) -> bool {
        self.inner.library.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id.0)
    }

    /// The text of a token that a [`TextStream`] leaves out because it is special.
    pub(crate) fn hidden_text(&self, id: TokenId) -> Option<String> {
        if self.is_special(id) { self.token_text(id) } else { None }
    }

    pub(super) fn decoder(&self) -> &Decoder {
        &self.inner.decoder
    }

    /// What the library itself makes of `tokens`: for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn decode_by_library(&self, tokens: &[TokenId], skip_special: bool) -> Option<String> {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        self.inner.library.decode(&ids, skip_special).ok()
    }
}

impl Inner {
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, String> {
        let work = || heeded(|| self.library.encode_fast(text, add_special).map_err(|e| e.to_string()));
        let text_bytes = text.len();
        let encoding = no_panic(work, |cause| TextError::Encode { text_bytes, cause }).map_err(|e| match e {
            TextError::Encode { cause, .. } => cause,
            other => other.to_string(),
        })?;
        Ok(encoding.get_ids().iter().map(|&id| TokenId(id)).collect())
    }

    fn id_of(&self, token: &str) -> Option<TokenId> {
        self.library.token_to_id(token).map(TokenId)
    }
}

fn end_tokens(library: &Library, data: &TokenizerData) -> Vec<TokenId> {
    let own = data.eos_token.as_deref().and_then(|eos| library.token_to_id(eos));
    let added = library.get_added_vocabulary();
    let usual = USUAL_END_TOKENS.iter().filter(|t| added.is_special_token(t)).filter_map(|t| library.token_to_id(t));
    let mut result = Vec::new();
    for id in own.into_iter().chain(usual).map(TokenId) {
        if !result.contains(&id) {
            result.push(id);
        }
    }
    result
}

impl Plain {
    fn new(library: &Library, special: &[AddedToken]) -> Self {
        let mut library = library.clone();
        library.set_encode_special_tokens(true);
        let unknown = match library.get_model() {
            ModelWrapper::BPE(model) => model.unk_token.as_deref().and_then(|unknown| model.token_to_id(unknown)),
            ModelWrapper::WordPiece(model) => model.token_to_id(&model.unk_token),
            ModelWrapper::WordLevel(model) => model.token_to_id(&model.unk_token),
            ModelWrapper::Unigram(model) => {
                let renamed = without_special_pieces(model, special);
                let (unknown, model) = renamed.map_or((None, None), |(unknown, model)| (unknown, Some(model)));
                if let Some(model) = model {
                    library.with_model(model);
                }
                unknown
            }
        };
        library.add_tokens(&[AddedToken::from(BEFORE, false).normalized(false)]);
        Self { library, unknown }
    }
}

/// The unknown piece, and the pieces with those of special tokens renamed so that no text has them: Unigram takes the likeliest
/// pieces that make up a text, whatever they stand for.
fn without_special_pieces(model: &Unigram, special: &[AddedToken]) -> Option<(Option<u32>, Unigram)> {
    let special: HashSet<&str> = special.iter().map(|token| token.content.as_str()).collect();
    let mut json = serde_json::to_value(model).ok()?;
    for (id, piece) in json.get_mut("vocab")?.as_array_mut()?.iter_mut().enumerate() {
        if piece.get(0).and_then(serde_json::Value::as_str).is_some_and(|text| special.contains(text)) {
            piece[0] = format!("\u{FDD0}{id}\u{FDD0}").into();
        }
    }
    let unknown = json.get("unk_id").and_then(serde_json::Value::as_u64).and_then(|id| u32::try_from(id).ok());
    // From text: the library borrows strings of what it reads.
    Some((unknown, serde_json::from_str(&json.to_string()).ok()?))
}
