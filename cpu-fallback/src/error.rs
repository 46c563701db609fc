//! What can go wrong: shapes that do not fit, tiles that cannot be read, kernels that this machine lacks.

/// A computation was refused or could not read its weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A buffer has another length than its shape asks for.
    #[error("{what}: {got} elements where the shape asks for {expected}")]
    Shape {
        /// Which argument of which function.
        what: &'static str,
        /// Elements that the shape asks for.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// There is no memory for rows or weights.
    #[error(transparent)]
    Memory(#[from] coexec_model::memory::OutOfMemory),
    /// An argument has a value that makes no sense.
    #[error("{what}: {value} is not usable: {why}")]
    Argument {
        /// Which argument of which function.
        what: &'static str,
        /// Its value.
        value: String,
        /// What would be.
        why: &'static str,
    },
    /// A token id beyond the embedding.
    #[error("token {id} is beyond the embedding's {rows} rows: the prompt was made with another tokenizer")]
    Token {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// A tile of a packed tensor has another size than its shape asks for.
    #[error(
        "tile {tile} holds {got} bytes where its shape asks for {expected}: the packed file does not fit its config"
    )]
    TileSize {
        /// Index of the tile.
        tile: usize,
        /// Bytes that the shape asks for.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// Weights could not be read.
    #[error(transparent)]
    Tile(#[from] TileError),
}

/// A tile or float row could not be read or decompressed. Made by whoever owns the weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read weights: {message}")]
pub struct TileError {
    /// What, where and why.
    pub message: String,
}

impl TileError {
    /// An error that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}

/// A kernel set that was asked for by name cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// No kernel set has this name.
    #[error("no kernels are called `{name}`: use one of {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The kernel set needs instructions that this machine lacks.
    #[error("this machine cannot run the `{name}` kernels: it can run {available}")]
    Unsupported {
        /// The name asked for.
        name: &'static str,
        /// The names that would work.
        available: String,
    },
}

/// `Ok` when `got == expected`.
pub(crate) fn check_len(what: &'static str, expected: Option<usize>, got: usize) -> Result<(), CpuError> {
    let expected = expected.unwrap_or(usize::MAX);
    if got == expected { Ok(()) } else { Err(CpuError::Shape { what, expected, got }) }
}
