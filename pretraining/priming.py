"""A starting point that can already look back: the two attention heads that copying needs, set by hand.

A small model copies from its context with a pair of heads: in one layer a head that looks at the token
before, in the next a head that looks for places whose token before is the current one, and repeats what
stands there (an "induction head", Olsson et al. 2022). Gradient descent finds them after some hundred
million tokens; here there are some ten million. So they are part of the initial weights, in the spirit of
mimetic initialisation (Trockman and Kolter 2023), and training changes them like any others.

Directions of the residual stream, as rows of a random orthogonal matrix: 0 is the same in every token;
`_READ` and `_COPIED` hold what the token is; `_BACK_1` and `_BACK_2` are free for what the tokens one and
two before are.
"""

import math

import torch
from transformers import LlamaForCausalLM

EMBEDDING_STD = 0.2
FINAL_NORM = 0.1
_READ, _BACK_1, _BACK_2 = slice(1, 65), slice(65, 129), slice(129, 193)
_COPIED = (slice(193, 257), slice(257, 321))
_FAST_PAIRS = range(12)
_SLOW_PAIRS = range(20, 32)
_LOOK_BACK_SCALE = 0.65
_WRITE_BACK_SCALE = 0.3
_MATCH_SCALE = 1.9
_COPY_SCALE = 0.5


@torch.no_grad()
def prime(model: LlamaForCausalLM) -> None:
    """Sets embeddings, the final norm, and the attention of the first two layers of a fresh fp32 model."""
    hidden = model.config.hidden_size
    basis = torch.linalg.qr(torch.randn(hidden, hidden)).Q
    spread = torch.randn_like(model.model.embed_tokens.weight) * EMBEDDING_STD
    spread[:, 0] = 0.5 * EMBEDDING_STD * math.sqrt(hidden)
    spread[:, _BACK_1.start : _BACK_2.stop] = 0.0
    model.model.embed_tokens.weight.copy_(spread @ basis)
    model.model.norm.weight.fill_(FINAL_NORM)
    _look_back(model, basis)
    _look_up(model, basis)


def _look_back(model: LlamaForCausalLM, basis: torch.Tensor) -> None:
    """Layer 0: heads 0 and 1 attend one and two tokens back, and write down what stands there."""
    attention = model.model.layers[0].self_attn
    size = attention.head_dim
    key = torch.zeros(size)
    key[list(_FAST_PAIRS)] = _LOOK_BACK_SCALE
    attention.k_proj.weight[:size] += torch.outer(key, basis[0])
    attention.v_proj.weight[:size] = basis[_READ]
    for head, (lag, written) in enumerate([(1, _BACK_1), (2, _BACK_2)]):
        query = torch.zeros(size)
        for pair in _FAST_PAIRS:
            angle = lag * 10000.0 ** (-2 * pair / size)
            query[pair] = _LOOK_BACK_SCALE * math.cos(angle)
            query[pair + size // 2] = -_LOOK_BACK_SCALE * math.sin(angle)
        place = slice(head * size, (head + 1) * size)
        attention.q_proj.weight[place] += torch.outer(query, basis[0])
        attention.o_proj.weight[:, place] = _WRITE_BACK_SCALE * basis[written].T


def _look_up(model: LlamaForCausalLM, basis: torch.Tensor) -> None:
    """Layer 1: heads attend where the token before is the current one (or the two before match), and copy.

    What is compared is put into the slowly rotating pairs of the position code, which hardly feel distance.
    """
    attention = model.model.layers[1].self_attn
    size = attention.head_dim
    places = [*_SLOW_PAIRS, *(pair + size // 2 for pair in _SLOW_PAIRS)]
    compared = [(_READ, _BACK_1), (_BACK_1, _BACK_2)]
    for group, (asked, found) in enumerate(compared):
        rows = [group * size + place for place in places]
        attention.k_proj.weight[rows] += _MATCH_SCALE * basis[found][: len(places)]
        attention.v_proj.weight[group * size : (group + 1) * size] = basis[_COPIED[group]]
        for head in range(3 * group, 3 * group + 3):
            asking = [head * size + place for place in places]
            attention.q_proj.weight[asking] += _MATCH_SCALE * basis[asked][: len(places)]
            attention.o_proj.weight[:, head * size : (head + 1) * size] = (
                _COPY_SCALE * basis[_COPIED[group]].T
            )
