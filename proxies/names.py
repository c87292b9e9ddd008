"""Name, direction and inputs of each proxy. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

DIRECTIONS = ("maximize", "minimize")


@dataclass(frozen=True)
class ProxyName:
    """`is_baseline` marks a count of the architecture, which a training-free score must beat."""

    name: str
    direction: str
    about: str
    is_baseline: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown direction."""
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"proxy {self.name}: unknown direction {self.direction!r}; known: {', '.join(DIRECTIONS)}"
            )


PROXY_NAMES = {
    entry.name: entry
    for entry in (
        ProxyName("activation_distance", "maximize", "agreement of the tokens' activation patterns"),
        ProxyName("fisher", "maximize", "squared effect of each channel on the loss"),
        ProxyName("gradient_norm", "maximize", "norm of the gradients at the start"),
        ProxyName("grasp", "maximize", "change of the gradient's norm as weights are removed"),
        ProxyName("head_confidence", "maximize", "largest projection output over the tokens"),
        ProxyName("head_importance", "maximize", "saliency of the mixers' weights for the outputs"),
        ProxyName("hidden_covariance", "maximize", "how little the channels between blocks correlate"),
        ProxyName("jacobian_cosine", "maximize", "how little the examples' input gradients align"),
        ProxyName("jacobian_covariance", "maximize", "how little the examples' input gradients correlate"),
        ProxyName("log_synflow", "maximize", "synaptic flow, layer by layer in logarithms"),
        ProxyName("naswot", "maximize", "how well activation patterns tell examples apart"),
        ProxyName("ntk_condition", "minimize", "condition number of the neural tangent kernel"),
        ProxyName("optin_trajectory", "maximize", "what leaving a block out does to all later ones"),
        ProxyName("snip", "maximize", "saliency of all weights for the loss"),
        ProxyName("softmax_confidence", "maximize", "largest attention weight of each query"),
        ProxyName(
            "synaptic_diversity", "maximize", "spread of the mixers' weights and gradients over directions"
        ),
        ProxyName("synaptic_saliency", "maximize", "saliency of the ffns' weights for the outputs"),
        ProxyName("synflow", "maximize", "synaptic flow"),
        ProxyName("taylor_squared", "maximize", "squared effect of each hidden unit on the loss"),
        ProxyName("zen", "maximize", "how strongly the features answer to noise at the inputs"),
        ProxyName("zico", "maximize", "size of the gradients against their spread over examples"),
        ProxyName("depth", "maximize", "blocks that run", is_baseline=True),
        ProxyName("flops", "maximize", "matrix products of one example", is_baseline=True),
        ProxyName("parameters", "maximize", "trained values", is_baseline=True),
        ProxyName("state_bytes", "maximize", "what decoding one sequence keeps", is_baseline=True),
    )
}
