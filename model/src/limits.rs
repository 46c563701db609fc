//! Upper bounds of a model's sizes: far above any model, far below an overflow. Importers refuse what is beyond them, and so
//! does whoever reads or writes a packed file, so that nothing imported is refused later.

/// Of `hidden_size`.
pub(crate) const MAX_HIDDEN: u64 = 1 << 16;
/// Of `intermediate_size`.
pub(crate) const MAX_FFN: u64 = 1 << 18;
/// Of `num_hidden_layers`.
pub(crate) const MAX_LAYERS: u64 = 1 << 10;
/// Of `num_attention_heads` and `num_key_value_heads`.
pub(crate) const MAX_HEADS: u64 = 1 << 10;
/// Of `head_dim`.
pub(crate) const MAX_HEAD_DIM: u64 = 1 << 10;
/// Of `num_attention_heads × head_dim`.
pub(crate) const MAX_Q_SIZE: u64 = 1 << 18;
/// Of `vocab_size`.
pub(crate) const MAX_VOCAB: u64 = 1 << 22;
/// Of `max_position_embeddings`.
pub(crate) const MAX_CONTEXT: u64 = 1 << 27;
