//! A session: one conversation's tokens and KV cache.

use crate::{
    Engine, RuntimeError,
    kv::KvCache,
    layer::{self, ForwardScratch},
    prefill::{LogitsWanted, PrefillOptions, PrefillOutput, plan, run::Runner},
};
use coexec_cpu::Ctx;
use coexec_model::TokenId;

/// One conversation: tokens seen so far and their K and V.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    kv: KvCache,
    tokens: Vec<TokenId>,
    x: Vec<f32>,
    logits: Vec<f32>,
    scratch: ForwardScratch,
}

impl Session {
    pub(crate) fn new(engine: Engine) -> Self {
        let kv = KvCache::new(engine.model().config(), engine.options().kv);
        Self { engine, kv, tokens: Vec::new(), x: Vec::new(), logits: Vec::new(), scratch: ForwardScratch::default() }
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

    /// Runs the model over `tokens` after those seen so far, in chunks, on NPU and CPU. On any error the session is as it
    /// was before.
    ///
    /// # Errors
    /// Empty or too long prompts, unknown tokens, a device or weight error, cancellation.
    pub fn prefill(&mut self, tokens: &[TokenId], options: &PrefillOptions) -> Result<PrefillOutput, RuntimeError> {
        if tokens.is_empty() {
            return Err(RuntimeError::EmptyPrompt);
        }
        self.check(tokens)?;
        let engine = self.engine.clone();
        let inner = &engine.inner;
        let span = tracing::info_span!("prefill", tokens = tokens.len(), start_pos = self.tokens.len());
        let _entered = span.enter();
        let npu = engine.prepare_npu()?;
        let all_logits = options.logits == LogitsWanted::All;
        let start_pos = self.tokens.len();
        let plan_options = engine.plan_options(all_logits);
        let plan = plan::plan(inner.model.config(), &plan_options, tokens.len(), start_pos)?;
        inner.model.reserve_positions(start_pos + tokens.len())?;
        self.kv.reserve(start_pos + tokens.len());
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        let runner = Runner {
            model: &inner.model,
            plan: &plan,
            npu: npu.as_deref(),
            kv: &self.kv,
            tokens: &ids,
            pool: &inner.pool,
            kernels: inner.kernels,
            shadowed: &inner.shadowed,
            all_logits,
            jitter_us: inner.options.jitter_us,
        };
        let policy = inner.options.policy.create();
        let outcome = match runner.run(&*policy, &options.cancel) {
            Ok(outcome) => outcome,
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
            clipped: outcome.clipped,
            saturated: outcome.saturated,
            ran_elsewhere: Vec::new(),
        })
    }

    /// Runs the model over one token on the CPU; returns its logits `[vocab_size]`, which the caller may change.
    ///
    /// # Errors
    /// A full context, an unknown token, a damaged weight tile; the session then is as it was before.
    pub fn decode(&mut self, token: TokenId) -> Result<&mut [f32], RuntimeError> {
        self.check(&[token])?;
        let inner = &self.engine.inner;
        let span = tracing::debug_span!("decode", pos = self.tokens.len());
        let _entered = span.enter();
        let ctx = Ctx { kernels: inner.kernels, pool: &inner.pool, lanes: inner.pool.threads() };
        let pos = self.tokens.len();
        inner.model.reserve_positions(pos + 1)?;
        self.kv.reserve(pos + 1);
        layer::embed(&inner.model, &[token.0], &mut self.x)?;
        layer::forward(&ctx, &inner.model, &mut self.x, pos, &self.kv, &mut self.scratch)?;
        layer::head(&ctx, &inner.model, &self.x, &mut self.logits, &mut self.scratch)?;
        self.tokens.push(token);
        Ok(&mut self.logits)
    }
}
