"""Known evidence: inputs that are made, so that it is known what decides, and networks that learnt
it. Whether a map finds what decides can then be tested, without data of others.

``python -m pyxai_fast.known_evidence`` trains the networks and compares the methods.
"""

from ..metrics.centre import centre_maps
from .controls import uniform_maps
from .examples import Examples
from .localised import judged, localisation
from .maps import MAPS, Budget, maps_of, names_of, one_channel
from .marks import make_marked_pictures
from .pictures import make_pictures
from .sets import SETS, KnownSet, Recipe, known_set
from .spectrograms import make_spectrograms
from .tables import make_tables
from .training import accuracy, load_net, probabilities, train_net

__all__ = [
    "MAPS",
    "SETS",
    "Budget",
    "Examples",
    "KnownSet",
    "Recipe",
    "accuracy",
    "centre_maps",
    "judged",
    "known_set",
    "load_net",
    "localisation",
    "make_marked_pictures",
    "make_pictures",
    "make_spectrograms",
    "make_tables",
    "maps_of",
    "names_of",
    "one_channel",
    "probabilities",
    "train_net",
    "uniform_maps",
]
