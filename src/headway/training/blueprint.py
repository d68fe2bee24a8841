"""What is trained, and on what: from settings to a model's configuration and a corpus."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from headway.corpora.cache import same_tokens, text_corpus
from headway.corpora.tokenizer import load_tokenizer
from headway.corpora.tokens import TokenCorpus, is_corpus
from headway.decoder import HeadwayConfig, HeadwayForCausalLM, HeadwayModel
from headway.decoder.tensor_parallel import check_shares
from headway.errors import HeadwayError
from headway.hosts.attach import attach, check_fit
from headway.hosts.family import own_families
from headway.hosts.loading import check_causal, read_config, read_model, read_tokenizer
from headway.hosts.model import HostModel
from headway.mechanisms import Mechanism
from headway.mechanisms.fields import nearest
from headway.mechanisms.presets import preset_mechanisms
from headway.mechanisms.sizes import dims_of
from headway.training.initialise import seed_weights
from headway_train_settings import TrainSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BPE = 32_768
"""Vocabulary of a BPE where none is given."""
WIDER = 4
"""Feed-forward width of an architecture of transformers, in widths of the residual stream."""
_OWN = "headway"


@dataclass(frozen=True)
class Blueprint:
    """A model that can be built any number of times, each time the same.

    Attributes:
        settings: of the run.
        config: of the model.
        mechanisms: to attach, where the model is not our decoder.
        corpus: that it is trained on.
        tokenizer: that is saved with it.
    """

    settings: TrainSettings
    config: Any
    mechanisms: list[Mechanism]
    corpus: TokenCorpus
    tokenizer: Any

    def build(self, attention: str) -> PreTrainedModel:
        """The model before training, on the CPU in float32.

        Args:
            attention: name of the implementation.
        """
        seed = self.settings.seed
        model: PreTrainedModel
        if self.settings.model is not None:
            model = read_model(self.settings.model, self.config, "float32", AutoModelForCausalLM)
            model.set_attn_implementation(attention)
        elif self.config.model_type == _OWN:
            self.config._attn_implementation = attention
            model = HeadwayForCausalLM(self.config)
            seed_weights(model, seed)
        else:
            torch.manual_seed(seed)
            maker: Any = AutoModelForCausalLM
            model = maker.from_config(
                self.config, dtype=torch.float32, attn_implementation=attention
            )
        if self.mechanisms:
            torch.manual_seed(seed)
            with warnings.catch_warnings():
                # A person who names a mechanism here wants it as it is named.
                warnings.filterwarnings("ignore", "the logits change at once", UserWarning)
                attach(model, self.mechanisms)
        self._tell_frequencies(model)
        return model

    def _tell_frequencies(self, model: nn.Module) -> None:
        tellers = [m for m in model.modules() if isinstance(m, HeadwayModel | HostModel)]
        if tellers:
            counts = np.bincount(self.corpus.train, minlength=self.config.vocab_size)
            for module in tellers:
                module.set_token_counts(torch.from_numpy(counts))


def draw(settings: TrainSettings) -> Blueprint:
    """Read or build the corpus, and say what model is trained on it.

    Raises:
        HeadwayError: a text, corpus, model, tokenizer, mechanism or size that is not accepted, or
            that does not fit the others.
    """
    return _of_trained(settings) if settings.model is not None else _of_new(settings)


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """Refuse a model to which documents in one row are one: few do not heed positions.

    Raises:
        HeadwayError: what stands in the first document changes the second.
    """
    # Two rows that agree in the second document alone.
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [3, 1, 2, 4, 5, 6]])
    positions = torch.tensor([0, 1, 2, 0, 1, 2]).expand(2, 6)
    mode = model.training
    model.eval()
    second: Any = model(ids % model.config.vocab_size, position_ids=positions, use_cache=False)
    model.train(mode)
    one, other = second.logits[:, 3:]
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-5):
        raise HeadwayError(
            f"reset_positions: true is not accepted, as a {type(model).__name__} does not keep "
            "packed documents apart; accepted is --no-reset-positions"
        )


def check_model(settings: TrainSettings) -> None:
    """Refuse a model that no text could make right, before any text is read.

    Raises:
        HeadwayError: see `draw`.
    """
    if settings.model is not None:
        config = read_config(settings.model)
        _check_trained(settings, config)
        _mechanisms(settings, dims_of(config).hidden_size)
    else:
        config = _new_config(settings, settings.vocab_size or BPE, None)
    if settings.tensor_parallel > 1:
        if config.model_type != _OWN:
            raise HeadwayError(
                f"tensor_parallel: {settings.tensor_parallel} is not accepted for a "
                f"{config.model_type}; accepted is 1, or our decoder"
            )
        check_shares(config, settings.tensor_parallel)


def _of_new(settings: TrainSettings) -> Blueprint:
    corpus = _corpus(settings, settings.tokenizer or "bpe")
    if _built(settings) is not None and settings.tokenizer is not None:
        _check_tokenizer(settings, settings.tokenizer, corpus)
    text = corpus.description.kind == "text"
    trained_bpe = text and _built(settings) is None and settings.tokenizer in (None, "bpe")
    asked = None if trained_bpe else settings.vocab_size
    if asked is not None and asked < corpus.vocab_size:
        raise HeadwayError(
            f"vocab_size: {asked} is smaller than the ids of the corpus, which reach "
            f"{corpus.vocab_size - 1}; accepted are {corpus.vocab_size} and more"
        )
    config = _new_config(settings, asked or corpus.vocab_size, corpus.eot)
    listed = [] if config.model_type == _OWN else _mechanisms(settings, settings.hidden_size)
    return Blueprint(settings, config, listed, corpus, _tokenizer_of(corpus, settings.context))


def _of_trained(settings: TrainSettings) -> Blueprint:
    assert settings.model is not None
    config = read_config(settings.model)
    _check_trained(settings, config)
    tokenizer = read_tokenizer(settings.model, config)
    folder = settings.out / "tokenizer"
    if _built(settings) is None:
        tokenizer.save_pretrained(folder)
    corpus = _corpus(settings, str(folder))
    if not same_tokens(_encoder(corpus), _backend(settings.model, tokenizer)):
        raise HeadwayError(
            f"corpus: {_built(settings)!r} was built with another tokenizer than that of "
            f"model={settings.model!r}; accepted is one built with --tokenizer and the model's "
            "tokenizer.json"
        )
    if config.vocab_size < corpus.vocab_size:
        raise HeadwayError(
            f"model: {settings.model!r} has a vocabulary of {config.vocab_size}, and the ids of "
            f"the corpus reach {corpus.vocab_size - 1}; accepted is a model with at least "
            f"{corpus.vocab_size}"
        )
    mechanisms = _mechanisms(settings, dims_of(config).hidden_size)
    return Blueprint(settings, config, mechanisms, corpus, tokenizer)


def _check_tokenizer(settings: TrainSettings, asked: str, corpus: TokenCorpus) -> None:
    if asked == "bpe":
        # Trained on a text that is not here; bytes, characters, music and speech have no merges.
        same = bool(json.loads(corpus.tokenizer_json)["model"].get("merges"))
    else:
        same = same_tokens(_encoder(corpus), load_tokenizer(asked, (), corpus.vocab_size))
    if not same:
        raise HeadwayError(
            f"tokenizer: {asked!r} is not that of the corpus {_built(settings)!r}, which was built "
            "with another one; accepted is to leave it out"
        )


def _check_trained(settings: TrainSettings, config: Any) -> None:
    check_causal(str(settings.model), config)
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and settings.context > most:
        raise HeadwayError(
            f"context: {settings.context} is more than the model's max_position_embeddings; "
            f"accepted are 2 to {most}"
        )
    mechanisms = _mechanisms(settings, dims_of(config).hidden_size)
    if mechanisms and (config.model_type == _OWN or getattr(config, "mechanisms", None)):
        raise HeadwayError(
            f"mechanisms: model={settings.model!r} is trained with its own already; accepted is "
            "'vanilla', which keeps them"
        )
    if mechanisms:
        check_fit(config, mechanisms)
    if settings.tokenizer is not None:
        raise HeadwayError(
            f"tokenizer: {settings.tokenizer!r} is not accepted beside model={settings.model!r}, "
            "which has its own"
        )


def _new_config(settings: TrainSettings, vocab_size: int, end: int | None) -> Any:
    """Of a new model; all that does not fit raises here."""
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": settings.hidden_size,
        "num_hidden_layers": settings.num_hidden_layers,
        "num_attention_heads": settings.num_attention_heads,
        "num_key_value_heads": settings.num_key_value_heads,
        "intermediate_size": settings.intermediate_size,
        "max_position_embeddings": settings.context,
        "initializer_range": settings.initializer_range,
        "bos_token_id": end,
        "eos_token_id": end,
    }
    mechanisms = _mechanisms(settings, settings.hidden_size)
    if settings.architecture == _OWN:
        return HeadwayConfig(
            **fields,
            position=settings.position,
            norm=settings.norm,
            hidden_act=settings.hidden_act,
            mechanisms=mechanisms,
        )
    known = own_families()
    if settings.architecture not in known:
        raise HeadwayError(
            f"architecture: {settings.architecture!r} is unknown"
            f"{nearest(settings.architecture, [_OWN, *known])}; accepted are {_OWN}, "
            f"{', '.join(sorted(known))}"
        )
    if settings.hidden_size % settings.num_attention_heads:
        raise HeadwayError(
            f"hidden_size: {settings.hidden_size} is not divisible by num_attention_heads="
            f"{settings.num_attention_heads}; accepted is a multiple of it"
        )
    fields["head_dim"] = settings.hidden_size // settings.num_attention_heads
    fields["num_key_value_heads"] = settings.num_key_value_heads or settings.num_attention_heads
    fields["intermediate_size"] = settings.intermediate_size or WIDER * settings.hidden_size
    # Where an architecture has another word for a size, or computes what another one fixes.
    fields |= {"ffn_dim": fields["intermediate_size"], "word_embed_proj_dim": settings.hidden_size}
    plain = AutoConfig.for_model(settings.architecture)
    config = AutoConfig.for_model(
        settings.architecture, **{k: v for k, v in fields.items() if hasattr(plain, k)}
    )
    if mechanisms:
        check_fit(config, mechanisms)
    return config


def _mechanisms(settings: TrainSettings, hidden_size: int) -> list[Mechanism]:
    """Of presets, of a JSON file, or written as JSON.

    Raises:
        HeadwayError: unknown ones, or another form.
    """
    named = settings.mechanisms
    if not named.endswith(".json") and not named.lstrip().startswith("["):
        return preset_mechanisms(named, hidden_size, "mechanisms")
    try:
        text = named if named.lstrip().startswith("[") else Path(named).read_text(encoding="utf-8")
        listed = json.loads(text)
    except OSError as error:
        raise HeadwayError(
            f"mechanisms: {named!r} cannot be read ({error.strerror}); accepted is a JSON file"
        ) from error
    except ValueError as error:
        raise HeadwayError(
            f"mechanisms: {named!r} is not JSON ({error}); accepted is [{{'name': ...}}, ...]"
        ) from error
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise HeadwayError(
            f"mechanisms: {named!r} is of another form; accepted is [{{'name': ...}}, ...]"
        )
    return [Mechanism.from_dict(item) for item in listed]


def _corpus(settings: TrainSettings, tokenizer: str) -> TokenCorpus:
    built = _built(settings)
    if built is not None:
        return TokenCorpus.load(built)
    folder = settings.out / "corpus"
    if not folder.exists():
        vocabulary = settings.vocab_size or BPE
        text_corpus(settings.text, tokenizer, vocabulary, settings.max_characters).save(folder)
    return TokenCorpus.load(folder)


def _built(settings: TrainSettings) -> str | None:
    """The folder of a corpus that is built already, if one is asked for."""
    if settings.corpus is not None:
        return str(settings.corpus)
    text = settings.text
    return text if text is not None and is_corpus(Path(text)) else None


def _backend(model: str, tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise HeadwayError(
            f"model: {model!r} has a tokenizer without a tokenizer.json; accepted is one of the "
            "tokenizers library"
        )
    return backend


def _encoder(corpus: TokenCorpus) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(corpus.tokenizer_json)


def _tokenizer_of(corpus: TokenCorpus, context: int) -> PreTrainedTokenizerFast:
    """As transformers has it, which adds nothing around a text."""
    encoder = _encoder(corpus)
    end = encoder.id_to_token(corpus.eot)
    return PreTrainedTokenizerFast(
        tokenizer_object=encoder, bos_token=end, eos_token=end, model_max_length=context
    )
