"""Recurrences as their papers print them, token by token and head by head, from tensors alone."""

import torch
from torch import Tensor
from torch.nn import functional as F


def short_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """silu of the causal depthwise convolution of x [B, T, C] with the taps [C, J], the token's own first."""
    y = torch.zeros_like(x) if bias is None else bias.expand_as(x).clone()
    for i in range(min(weight.shape[1], x.shape[1])):
        y[:, i:] += weight[:, i] * x[:, : x.shape[1] - i]
    return F.silu(y)


def heads(x: Tensor, num: int) -> Tensor:
    """[B, T, num K] -> [B, T, num, K]"""
    return x.unflatten(2, (num, -1))


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def delta_rule(q: Tensor, k: Tensor, v: Tensor, a: Tensor, beta: Tensor) -> Tensor:
    """S_t = (I - beta k k^T) diag(a) S_{t-1} + beta k v^T, o_t = S_t^T q_t. q, k, a [B, T, H, K], beta [B, T, H]."""
    B, T, H, K = q.shape
    o = torch.zeros_like(v)
    for b in range(B):
        for h in range(H):
            S = v.new_zeros(K, v.shape[-1])
            for t in range(T):
                key, strength = k[b, t, h], beta[b, t, h]
                turn = torch.eye(K, dtype=v.dtype) - strength * torch.outer(key, key)
                S = turn @ torch.diag(a[b, t, h]) @ S + strength * torch.outer(key, v[b, t, h])
                o[b, t, h] = S.T @ q[b, t, h]
    return o
