//! A session: one conversation's tokens and KV cache.

use crate::{
    Engine, RuntimeError,
    decode::{self, DecodeBuffers},
    kv::KvCache,
    npu::{PreparedNpu, failover::Trouble},
    prefill::{
        LogitsWanted, PrefillOptions, PrefillOutput, PrefillPlan, plan,
        run::{RunOutcome, Runner},
    },
};
use coexec_cpu::Ctx;
use coexec_model::TokenId;

/// One conversation: tokens seen so far and their K and V.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    kv: KvCache,
    tokens: Vec<TokenId>,
    decode_buffers: DecodeBuffers,
}

impl Session {
    pub(crate) fn new(engine: Engine) -> Self {
        let kv = KvCache::new(engine.model().config(), engine.options().kv);
        Self { engine, kv, tokens: Vec::new(), decode_buffers: DecodeBuffers::default() }
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Tokens seen so far.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens that the context still holds.
    #[must_use]
    pub fn room(&self) -> usize {
        (self.engine.model().config().max_position_embeddings as usize).saturating_sub(self.tokens.len())
    }

    /// Bytes of K and V.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        self.kv.bytes()
    }

    /// Forgets all tokens past the first `tokens`.
    pub fn truncate(&mut self, tokens: usize) {
        self.tokens.truncate(tokens);
        self.kv.truncate(self.tokens.len());
    }

    fn check(&self, tokens: &[TokenId]) -> Result<(), RuntimeError> {
        let config = self.engine.model().config();
        if let Some(bad) = tokens.iter().find(|t| t.0 >= config.vocab_size) {
            return Err(RuntimeError::UnknownToken { token: bad.0, vocab_size: config.vocab_size });
        }
        let limit = config.max_position_embeddings as usize;
        if self.tokens.len() + tokens.len() > limit {
            return Err(RuntimeError::ContextFull { used: self.tokens.len(), wanted: tokens.len(), limit });
        }
        Ok(())
    }

    /// Runs the model over `tokens` after those seen so far, in chunks, on NPU and CPU. When the NPU fails, the prompt runs
    /// again on fresh static graphs, then elsewhere; the output says so. On any error the session is as it was before.
    ///
    /// # Errors
    /// Empty or too long prompts, unknown tokens, static graphs that the NPU asked for refuses, a weight error, cancellation.
    pub fn prefill(&mut self, tokens: &[TokenId], options: &PrefillOptions) -> Result<PrefillOutput, RuntimeError> {
        if tokens.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        self.check(tokens)?;
        let engine = self.engine.clone();
        let inner = &engine.inner;
        let span = tracing::info_span!("prefill", tokens = tokens.len(), start_pos = self.tokens.len());
        let _entered = span.enter();
        let all_logits = options.logits == LogitsWanted::All;
        let start_pos = self.tokens.len();
        inner.model.reserve_positions(start_pos + tokens.len())?;
        self.kv.reserve(start_pos + tokens.len())?;
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        let mut trouble = Trouble::default();
        // Ends: every failure brings the NPU in use closer to being given up, and the CPU has none.
        let result = loop {
            if options.cancel.is_cancelled() {
                break Err(RuntimeError::Cancelled);
            }
            let lease = match inner.npus.lease(&inner.model, &inner.options, &options.cancel, &mut trouble) {
                Ok(lease) => lease,
                Err(e) => break Err(e),
            };
            match self.run(&ids, options, lease.npu(), all_logits) {
                Err(e) if lease.npu().is_some() && e.is_device_failure() => inner.npus.failed(lease, &e, &mut trouble),
                result => break result.map(|done| (done, lease.tier())),
            }
        };
        let ((plan, outcome), tier) = match result {
            Ok(done) => done,
            Err(e) => {
                self.kv.truncate(start_pos);
                return Err(e);
            }
        };
        self.tokens.extend_from_slice(tokens);
        Ok(PrefillOutput {
            logits: outcome.logits,
            plan,
            report: outcome.report,
            shadow: outcome.shadow,
            saturated: outcome.saturated,
            ran_elsewhere: inner.npus.ran_elsewhere(tier, &trouble),
            npu_failures: trouble.into_causes(),
        })
    }

    /// Runs a prompt on an NPU or on the CPU: K and V at positions past the session's tokens are written, again after a
    /// failure; nothing else of the session changes.
    fn run(
        &self,
        ids: &[u32],
        options: &PrefillOptions,
        npu: Option<&PreparedNpu>,
        all_logits: bool,
    ) -> Result<(PrefillPlan, RunOutcome), RuntimeError> {
        let inner = &self.engine.inner;
        let plan_options = self.engine.plan_options_on(npu.map(PreparedNpu::profile), all_logits);
        let plan = plan::plan(inner.model.config(), &plan_options, ids.len(), self.tokens.len())?;
        let runner = Runner {
            model: &inner.model,
            plan: &plan,
            npu,
            kv: &self.kv,
            tokens: ids,
            pool: &inner.pool,
            kernels: inner.kernels,
            all_logits,
            jitter_us: inner.options.jitter_us,
        };
        let outcome = runner.run(&*inner.options.policy.create(), &options.cancel)?;
        Ok((plan, outcome))
    }

    /// Runs the model over one token on the CPU; returns its logits `[vocab_size]`, which the caller may change.
    ///
    /// # Errors
    /// A full context, an unknown token, a damaged weight tile; the session then is as it was before.
    pub fn decode(&mut self, token: TokenId) -> Result<&mut [f32], RuntimeError> {
        self.decode_rows(&[token])
    }

    /// Runs the model over a few tokens at once on the CPU, reading the weights once: returns logits `[tokens, vocab_size]`, bit
    /// for bit those that [`Self::decode`] gives one by one.
    ///
    /// # Errors
    /// As [`Self::decode`]; also for no token, or more than [`decode::MAX_ROWS`].
    pub fn decode_rows(&mut self, tokens: &[TokenId]) -> Result<&mut [f32], RuntimeError> {
        if tokens.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        self.check(tokens)?;
        let inner = &self.engine.inner;
        let span = tracing::debug_span!("decode", pos = self.tokens.len(), tokens = tokens.len());
        let _entered = span.enter();
        let ctx = Ctx { kernels: inner.kernels, pool: &inner.pool, lanes: inner.pool.threads() };
        let pos = self.tokens.len();
        inner.model.reserve_positions(pos + tokens.len())?;
        self.kv.reserve(pos + tokens.len())?;
        let logits =
            decode::step(&ctx, &inner.model, tokens.iter().map(|t| t.0), pos, &self.kv, &mut self.decode_buffers)?;
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }
}
