"""Residual k-means: codes of items level by level, each of what the levels before left over."""

from __future__ import annotations

import jax

from mmrec_jax.ops import quantize
from mmrec_jax.tasks import codes
from mmrec_jax.types import Context, Dataset, Recommender


class ResidualKMeans(Recommender):
    """k-means of the item features, then of the residuals, and so on; nothing is learned by steps.

    The simplest tokenizer of semantic ids, used in place of an RQ-VAE for example by Luo et al.,
    "QARM", 2024, https://arxiv.org/abs/2411.11739, and Deng et al., "OneRec", 2025,
    https://arxiv.org/abs/2502.18965 (which also balances the clusters; not done here).

    Attributes:
      sizes: codes of every level.
      steps: rounds of Lloyd's algorithm.
      unique: how items alike are told apart, "suffix", "sinkhorn" or "none"
        (``ops.quantize.deduplicated``).
      seed: of the k-means++ starts.
    """

    sizes: tuple[int, ...] = (256, 256, 256)
    steps: int = 50
    unique: str = "suffix"
    seed: int = 0

    task = "codes"

    @classmethod
    def context(cls, data: Dataset, **hyper) -> Context:
        quantize.check(hyper.get("unique", cls.unique))
        ctx = codes.context(data)
        codebooks = quantize.residual_kmeans(
            jax.random.key(hyper.get("seed", cls.seed)),
            ctx.tables["items"],
            hyper.get("sizes", cls.sizes),
            hyper.get("steps", cls.steps),
            ctx.tables["known"],
        )
        learned = {f"codebook_{level}": codebook for level, codebook in enumerate(codebooks)}
        return ctx.replace(tables=ctx.tables | learned)

    def represent(self, ctx: Context) -> codes.Codes:
        codebooks = [ctx.tables[f"codebook_{level}"] for level in range(len(self.sizes))]
        code, decoded, residual = quantize.encode(ctx.tables["items"], codebooks)
        return codes.rated(ctx, code, decoded, residual, codebooks[-1])


Model = ResidualKMeans
