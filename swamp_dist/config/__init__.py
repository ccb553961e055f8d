"""Every setting of a job, a recipe or a pipeline: strict, frozen, described, one module per section.

Settings are read once at the top of a stage. A package's `build_*` function may take its own
section; formulas below it take plain values. The string under each field is what `swamp show` prints.
"""

from swamp_dist.config.backends import ClusterSettings as ClusterSettings
from swamp_dist.config.backends import SizedCluster as SizedCluster
from swamp_dist.config.backends.local import LocalCluster as LocalCluster
from swamp_dist.config.backends.ray import RayCluster as RayCluster
from swamp_dist.config.backends.slurm import SlurmCluster as SlurmCluster
from swamp_dist.config.data import BlendedSet as BlendedSet
from swamp_dist.config.data import ClipSettings as ClipSettings
from swamp_dist.config.data import DataSettings as DataSettings
from swamp_dist.config.images import ImageSettings as ImageSettings
from swamp_dist.config.images import JitterSettings as JitterSettings
from swamp_dist.config.model import ModelSettings as ModelSettings
from swamp_dist.config.objective import ContrastiveSettings as ContrastiveSettings
from swamp_dist.config.objective import ObjectiveSettings as ObjectiveSettings
from swamp_dist.config.objective import QueueSettings as QueueSettings
from swamp_dist.config.objective import SinkhornSettings as SinkhornSettings
from swamp_dist.config.objective import SwampSettings as SwampSettings
from swamp_dist.config.own_files import ColumnSettings as ColumnSettings
from swamp_dist.config.own_files import PairsSource as PairsSource
from swamp_dist.config.own_files import SideSettings as SideSettings
from swamp_dist.config.own_files import SplitSettings as SplitSettings
from swamp_dist.config.own_tables import TableSource as TableSource
from swamp_dist.config.own_tars import WebDatasetSource as WebDatasetSource
from swamp_dist.config.pipelines import EntryGroup as EntryGroup
from swamp_dist.config.pipelines import PipelineSettings as PipelineSettings
from swamp_dist.config.pipelines import PipelineShards as PipelineShards
from swamp_dist.config.pipelines import PipelineStage as PipelineStage
from swamp_dist.config.pipelines import TableRow as TableRow
from swamp_dist.config.pipelines import TableSettings as TableSettings
from swamp_dist.config.shards import ShardSettings as ShardSettings
from swamp_dist.config.shards import WordsBuildSettings as WordsBuildSettings
from swamp_dist.config.simulated import SimulatedVideoTextSource as SimulatedVideoTextSource
from swamp_dist.config.sources import FeatureFileSettings as FeatureFileSettings
from swamp_dist.config.sources import HowTo100MSource as HowTo100MSource
from swamp_dist.config.sources import LsmdcSource as LsmdcSource
from swamp_dist.config.sources import MsrVttSource as MsrVttSource
from swamp_dist.config.sources import OpenMojiSource as OpenMojiSource
from swamp_dist.config.sources import PythonSource as PythonSource
from swamp_dist.config.sources import SourceSettings as SourceSettings
from swamp_dist.config.sources import SyntheticSource as SyntheticSource
from swamp_dist.config.sources import SyntheticSplit as SyntheticSplit
from swamp_dist.config.sources import VideoFeatureSettings as VideoFeatureSettings
from swamp_dist.config.sources import YouCook2Source as YouCook2Source
from swamp_dist.config.stage import EvaluateSettings as EvaluateSettings
from swamp_dist.config.stage import StageSettings as StageSettings
from swamp_dist.config.sweep import SweepSettings as SweepSettings
from swamp_dist.config.training import AlarmSettings as AlarmSettings
from swamp_dist.config.training import CheckpointSettings as CheckpointSettings
from swamp_dist.config.training import EngineSettings as EngineSettings
from swamp_dist.config.training import OptimizerSettings as OptimizerSettings
from swamp_dist.config.training import ScheduleSettings as ScheduleSettings
from swamp_dist.config.training import TrainSettings as TrainSettings
from swamp_dist.config.training import ValidateSettings as ValidateSettings
from swamp_dist.encoders import EncoderSettings as EncoderSettings
from swamp_dist.encoders.bag_of_words import BagOfWordsSettings as BagOfWordsSettings
from swamp_dist.encoders.cnn import CnnSettings as CnnSettings
from swamp_dist.encoders.gated import GatedSettings as GatedSettings
from swamp_dist.encoders.gru import GruSettings as GruSettings
from swamp_dist.encoders.hf_text import HfTextSettings as HfTextSettings
from swamp_dist.encoders.mlp import MlpSettings as MlpSettings
from swamp_dist.encoders.timm import TimmSettings as TimmSettings
from swamp_dist.encoders.words import WordsSettings as WordsSettings
from swamp_dist.settings import Settings as Settings
