from .aad import AaDAlignment
from .adversarial import AdversarialAlignment
from .afn import AFNAlignment
from .alignments import Alignments
from .base import Alignment, DomainBatch
from .bsp import BSPAlignment
from .cdan import CDANHead
from .centroid_pseudo_label import CentroidPseudoLabelAlignment
from .dan import DANAlignment
from .dann import DANNHead
from .deep_coral import DeepCORALAlignment
from .entropy_minimization import EntropyMinimization
from .information_maximization import InformationMaximization
from .jan import JANAlignment
from .masked_consistency import MaskedConsistency
from .mcc import MCCAlignment
from .mdd import MDDHead
from .pseudo_label import PseudoLabelAlignment
from .self_training import SelfTrainingAlignment

__all__ = [
    'AFNAlignment',
    'AaDAlignment',
    'AdversarialAlignment',
    'Alignment',
    'Alignments',
    'BSPAlignment',
    'CDANHead',
    'CentroidPseudoLabelAlignment',
    'DANAlignment',
    'DANNHead',
    'DeepCORALAlignment',
    'DomainBatch',
    'EntropyMinimization',
    'InformationMaximization',
    'JANAlignment',
    'MCCAlignment',
    'MDDHead',
    'MaskedConsistency',
    'PseudoLabelAlignment',
    'SelfTrainingAlignment',
]
