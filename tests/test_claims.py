"""What decides whether two commands belong to one run."""

import pytest

from CIFAR import Lottery_pools, main_imp
from ImageNet import Lottery_pools as imagenet_pools
from ImageNet import main_imp as imagenet_imp
from utils import methods
from utils.claims import FREE_FLAGS, refuse_other_run, used
from utils.errors import UserError
from utils.method_names import LATER_FLAGS

# Of the first files there are; those of `learned` came with the method, and no file of it is older.
ALWAYS_NOTED = {
    *("dataset", "arch", "imagenet_arch", "val_images", "data_limit", "no_flip", "image_size", "resize", "seed"),
    *("epochs", "lr", "momentum", "weight_decay", "warmup", "decreasing_lr", "batch_size", "amp", "channels_last"),
    *("prune_type", "rate", "rewind_epoch", "random_prune", "bn_images", "search_num"),
    *("interpolate_method", "interpolation_value_list", "EMA_value", "learned_steps", "learned_lr"),
}
NOT_NOTED = {"help", "list", "fast", "recipe"}  # stand for others, or end the program


@pytest.mark.parametrize("script", [main_imp, Lottery_pools, imagenet_imp, imagenet_pools], ids=lambda s: s.__name__)
def test_of_every_flag_that_decides_something_it_is_known_what_older_files_were_made_with(script):
    flags = {action.dest for action in script.build_parser()._actions} - NOT_NOTED
    assert flags - FREE_FLAGS <= ALWAYS_NOTED | set(LATER_FLAGS)


def test_a_flag_that_decides_something_is_not_free():
    """Of --val_images it is the images that decide."""
    assert not (FREE_FLAGS - {"val_images"}) & (ALWAYS_NOTED | set(LATER_FLAGS))


@pytest.mark.parametrize("name", LATER_FLAGS)
def test_what_is_older_than_a_flag_is_of_its_default(name, tmp_path):
    refuse_other_run({}, {name: LATER_FLAGS[name]}, tmp_path)
    refuse_other_run({name: "other"}, {name: "other"}, tmp_path)
    with pytest.raises(UserError, match=f"--{name}"):
        refuse_other_run({}, {name: "other"}, tmp_path)


def test_validation_images_may_be_asked_for_in_two_ways(tmp_path):
    """As their number or by default, and in vain where they are a folder: which images there are decides."""
    images = {"train": 48, "val": 12}
    refuse_other_run({"val_images": 12, "images": images}, {"val_images": None, "images": images}, tmp_path)
    with pytest.raises(UserError, match="other images"):
        refuse_other_run({"val_images": None, "images": images}, {"val_images": None, "images": {}}, tmp_path)


@pytest.mark.parametrize("script", [main_imp, Lottery_pools, imagenet_imp, imagenet_pools], ids=lambda s: s.__name__)
def test_defaults_are_those_of_older_files(script):
    defaults = {action.dest: action.default for action in script.build_parser()._actions}
    assert {name: defaults[name] for name in LATER_FLAGS if name in defaults} == {
        name: value for name, value in LATER_FLAGS.items() if name in defaults
    }


@pytest.mark.parametrize(
    "name, value, words",
    [
        *(("lr", 0.1, "with --lr 0.1"), ("bn_images", 0, "with --bn_images 0")),
        *(("decreasing_lr", [91, 136], "with --decreasing_lr 91,136"), ("val_images", None, "without --val_images")),
        ("interpolation_value_list", [0.3, 0.7], "with --interpolation_value_list 0.3 0.7"),
        *(("amp", True, "with --amp"), ("amp", False, "without --amp")),
    ],
)
def test_a_flag_is_told_as_a_command_line_has_it(name, value, words):
    assert used(name, value) == words


@pytest.mark.parametrize("method, warned", [("ensemble", True), ("linear_inter", True), ("uniform_soup", False)])
def test_starts_of_their_own_are_of_no_use_to_methods_that_split_images(method, warned, capfd):
    flags = ["images", "--save_dir", "tickets", "--parallel", "starts", "--interpolate_method", method]
    methods.heeded(imagenet_pools.build_parser().parse_args(flags))
    assert capfd.readouterr().err == f"warning: {method} has no use for --parallel starts\n" * warned
