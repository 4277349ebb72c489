"""``hf-audio:NAME_OR_DIR``: audio classifiers saved by Hugging Face transformers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pyxai_fast.errors import ArgumentError
from pyxai_fast.models.errors import MissingDependency, ModelSpecError
from pyxai_fast.models.hf_checkpoint import (
    checkpoint_name,
    class_names,
    first_line,
    import_transformers,
    load_classifier,
    quiet,
    without_settings,
)
from pyxai_fast.models.hf_front_ends import FrontEnd, front_end_of
from pyxai_fast.models.loaded import LoadedModel
from pyxai_fast.models.preprocessing import Preprocessing


class AudioClassifier(nn.Module):
    """A transformers classifier and its feature extractor as one function of waveforms.

    `classify` after `features` is the model itself, so that either end can be explained:
    ``explain(model, waveforms)`` the samples,
    ``explain(model.classify, model.features(waveforms))``
    what the network is given, and ``explain(WaveformModel(model, spectrum, samples), parts)`` a
    sound over time and frequency, as the command line does.

    Features have derivatives for Wav2Vec2, HuBERT, WavLM and others with the extractor of Wav2Vec2,
    for the Audio Spectrogram Transformer, and for Whisper. Those of other extractors have none:
    their models are explained from features on, or by methods that only ask.

    Args:
        model: a classifier of transformers.
        extractor: its feature extractor.

    Attributes:
        sample_rate: of the waveforms.
        class_names: of the outputs, or None.
    """

    def __init__(self, model: nn.Module, extractor: Any) -> None:
        super().__init__()
        self.model = model
        self.front_end: FrontEnd = front_end_of(extractor)
        self.sample_rate = int(extractor.sampling_rate)
        self.class_names = class_names(getattr(model, "config", None))

    def forward(self, waveforms: Tensor) -> Tensor:
        """Logits [R, n_classes] of waveforms [R, samples], in [-1, 1] at `sample_rate`."""
        _check(waveforms)
        return self._logits(self.front_end.arguments_of(waveforms))

    def features(self, waveforms: Tensor) -> Tensor:
        """What the feature extractor makes of waveforms [R, samples].

        Returns:
            Log-mel spectra as images [R, 1, F, T], low frequencies first, of the Audio Spectrogram
            Transformer and Whisper, which cut or fill up sounds to one length; waveforms
            [R, samples] of Wav2Vec2; what the extractor gives, [R, ...], of others.
        """
        _check(waveforms)
        return self.front_end.features(waveforms)

    def classify(self, features: Tensor) -> Tensor:
        """Logits [R, n_classes] of features, as `features` gives them."""
        return self._logits(self.front_end.arguments(features))

    def _logits(self, arguments: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.model(**arguments).logits
        return logits


def load_hf_audio(name: str) -> LoadedModel:
    """Load a directory written by ``save_pretrained``, or a model of the hub; with its extractor.

    The module of the answer is an AudioClassifier. Refuses a checkpoint without a trained
    classification head, as `load_hf` does.
    """
    spec = f"hf-audio:{name}"
    transformers = import_transformers(spec)
    name = checkpoint_name(name, spec)
    with quiet(transformers):
        model = load_classifier(
            transformers.AutoModelForAudioClassification, name, spec, "an audio classifier"
        )
        extractor = _load_extractor(transformers, name, spec)
    module = AudioClassifier(model, extractor)
    return LoadedModel(module, Preprocessing(), module.class_names, spec)


def _load_extractor(transformers: Any, name: str, spec: str) -> Any:
    try:
        return transformers.AutoFeatureExtractor.from_pretrained(name)
    except OSError as error:
        raise without_settings(name, spec, error) from error
    except ImportError as error:
        raise MissingDependency(f"{spec}: {first_line(error)}") from error
    except ValueError as error:
        raise ModelSpecError(
            f"{spec}: must have a feature extractor of transformers ({first_line(error)})"
        ) from error


def _check(waveforms: Tensor) -> None:
    if waveforms.dim() != 2 or not waveforms.is_floating_point():
        raise ArgumentError(
            "waveforms: must be floating point [R, samples], got "
            f"{waveforms.dtype} {list(waveforms.shape)}"
        )
