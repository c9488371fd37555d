import warnings

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from larscope import LatentVAR, Session
from larscope._dynamics.var import SparseVAR
from larscope._errors import LarscopeError
from larscope._fit.training import (
    EmptyFitWarning,
    EpochShuffle,
    ShortTrainingWarning,
    TrainingStep,
    Windows,
    finished_epochs,
    n_epochs,
    train,
)
from larscope._movies.preprocessing import prepare
from larscope._network.autoencoder import Autoencoder
from larscope._settings import Settings


@pytest.fixture(scope="module")
def prepared(session):
    return prepare(session)


def build(prepared, **options):
    settings = Settings(**{"order": 2, "window": 32, "penalty": 0.002, "epochs": 1, "pooling": "target", **options})
    torch.manual_seed(0)
    network = Autoencoder(torch.from_numpy(prepared.mean_frame()))
    return TrainingStep(network, SparseVAR(settings.order, settings.penalty), settings)


def encoder_gradient(step, frames):
    step.network.zero_grad()
    rendered, target = step.output(frames)
    (rendered - target).square().mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in step.network.encoder.parameters()])


def with_frozen(part, frames, prepared):
    """The end-to-end loss's encoder gradient with one part of the VAR held constant."""
    step = build(prepared, training="end-to-end")
    latent, indices = step.network.encode(frames[0])
    if part == "everything":
        rendered, target = step.network.decode(latent, indices), frames[0]
    else:
        coef = step.var(latent).coef.detach()
        assert (coef != 0).any()
        mean = latent.mean(0)
        sigma = (latent - mean).square().mean().sqrt()
        scaled = (latent - mean) / sigma
        past = [scaled[2 - lag : len(scaled) - lag] @ coef[lag - 1].T for lag in (1, 2)]
        rendered = step.network.decode(sigma * sum(past) + mean, tuple(index[2:] for index in indices))
        target = frames[0, 2:]
    (rendered - target).square().mean().backward()
    return torch.cat([parameter.grad.flatten() for parameter in step.network.encoder.parameters()])


def test_modes_differ_exactly_in_where_gradients_flow(prepared):
    frames = Windows(prepared, 32)[0][None]
    end_to_end, embedded, sequential = (
        encoder_gradient(build(prepared, training=mode), frames) for mode in ("end-to-end", "embedded", "sequential")
    )
    # embedded is end-to-end with the coefficients held constant; sequential has no VAR at all
    torch.testing.assert_close(embedded, with_frozen("coefficients", frames, prepared))
    torch.testing.assert_close(sequential, with_frozen("everything", frames, prepared))
    assert not torch.allclose(end_to_end, embedded, rtol=1e-2, atol=0)
    assert not torch.allclose(embedded, sequential, rtol=1e-2, atol=0)


def test_training_as_a_whole_differs_between_the_modes(prepared):
    weights = {}
    for mode in ("end-to-end", "embedded"):
        step = build(prepared, training=mode)
        settings = Settings(order=2, window=32, penalty=0.002, epochs=1, training=mode)
        with pytest.warns(ShortTrainingWarning):
            train(step.network, step.var, prepared, settings)
        weights[mode] = step.network.encoder.conv.weight.detach()
    assert not torch.allclose(weights["end-to-end"], weights["embedded"], rtol=1e-3)


def test_end_to_end_gradient_is_the_derivative_of_the_loss(prepared):
    step = build(prepared, training="end-to-end").double()
    step.eval()  # running batch-norm statistics, so that the loss is a function of the weights alone
    frames = Windows(prepared, 32)[0][None].double()
    weight = step.network.encoder.conv.weight
    step.training_step(frames, 0).backward()

    def loss(shift):
        with torch.no_grad():
            weight.add_(shift)
            value = step.training_step(frames, 0).item()
            weight.sub_(shift)
        return value

    direction = torch.randn_like(weight)
    size = 1e-6
    numeric = (loss(size * direction) - loss(-size * direction)) / (2 * size)
    assert (weight.grad * direction).sum().item() == pytest.approx(numeric, rel=1e-4)


def test_unrolled_gradient_agrees_with_the_implicit_one(prepared):
    frames = Windows(prepared, 32)[0][None].double()
    gradients = {}
    for rule in ("implicit", "unrolled"):
        step = build(prepared, training="end-to-end").double()
        step.var.gradient = rule
        gradients[rule] = encoder_gradient(step, frames)
    torch.testing.assert_close(gradients["implicit"], gradients["unrolled"], rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(("pooling", "lag"), [("target", 0), ("previous", 1)])
def test_a_forecast_is_decoded_with_the_indices_of_the_frame_asked_for(prepared, pooling, lag):
    step = build(prepared, pooling=pooling).eval()
    frames = Windows(prepared, 32)[1][None]
    rendered, target = step.output(frames)
    assert torch.equal(target, frames[0, 2:])
    latent, _ = step.network.encode(frames[0])
    forecast = step.var(latent).forecast
    for t in (2, 17, 31):
        _, indices = step.network.encode(frames[0, t - lag : t - lag + 1])
        alone = step.network.decode(forecast[t - 2 : t - 1], indices)
        torch.testing.assert_close(rendered[t - 2], alone[0], rtol=1e-4, atol=1e-5)


def test_a_batch_of_windows_is_the_windows_one_by_one(prepared):
    step = build(prepared).eval()
    windows = Windows(prepared, 32)
    frames = torch.stack([windows[0], windows[3]])
    together, target = step.output(frames)
    for i in range(2):
        rendered, wanted = step.output(frames[i : i + 1])
        torch.testing.assert_close(together[i * 30 : (i + 1) * 30], rendered, rtol=1e-4, atol=1e-5)
        assert torch.equal(target[i * 30 : (i + 1) * 30], wanted)


def test_windows_do_not_overlap_and_leave_the_tail_out(prepared):
    windows = Windows(prepared, 32)
    assert len(windows) == 2 + 2 + 2 + 3  # runs of 72, 80, 64 and 100 frames
    assert np.array_equal(windows[1].numpy(), prepared.frames(0, 32, 64))
    assert np.array_equal(windows[8].numpy(), prepared.frames(3, 64, 96))


def test_order_of_windows_depends_on_seed_and_epoch_alone():
    orders = {}
    for seed in (0, 1):
        sampler = EpochShuffle(20, seed)
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            orders[seed, epoch] = list(sampler)
            assert sorted(orders[seed, epoch]) == list(range(20))
            assert list(sampler) == orders[seed, epoch]
    assert len({tuple(order) for order in orders.values()}) == 4


def test_a_batch_is_filled_up_and_shared_out():
    whole = list(EpochShuffle(9, seed=3, batch_size=4))
    assert sorted(whole[:9]) == list(range(9))
    assert whole[9:] == whole[:3]
    shares = [EpochShuffle(9, 3, 4, process, 2) for process in (0, 1)]
    assert [len(share) for share in shares] == [6, 6]
    first, second = (np.array(list(share)).reshape(3, 2) for share in shares)
    assert np.hstack([first, second]).ravel().tolist() == whole
    assert list(EpochShuffle(2, 0, 5)) == np.resize(list(EpochShuffle(2, 0)), 5).tolist()


def test_random_windows_begin_anywhere_in_the_frames_of_theirs_and_anew_each_epoch(prepared):
    windows = Windows(prepared, 32)
    assert torch.equal(windows[7, 0.0], windows[6])
    assert np.array_equal(windows[7, 0.9999].numpy(), prepared.frames(3, 68, 100))
    assert np.array_equal(windows[6, 0.5].numpy(), prepared.frames(3, 34, 66))
    fixed, moved = EpochShuffle(20, 0), EpochShuffle(20, 0, anywhere=True)
    seen = []
    for epoch in range(200):
        for sampler in (fixed, moved):
            sampler.set_epoch(epoch)
        drawn = list(moved)
        assert [index for index, _ in drawn] == list(fixed)
        assert drawn == list(moved)
        seen += [where for _, where in drawn]
    assert kstest(seen, "uniform").pvalue > 0.01
    # a batch that is filled up repeats whole windows, and every process draws the same ones
    whole = list(EpochShuffle(9, seed=3, batch_size=4, anywhere=True))
    assert whole[9:] == whole[:3]
    first, second = (list(EpochShuffle(9, 3, 4, process, 2, anywhere=True)) for process in (0, 1))
    assert sorted(first + second) == sorted(whole)


def test_where_windows_begin_is_a_setting(prepared):
    losses = {}
    for starts in ("fixed", "random"):
        step = build(prepared)
        settings = Settings(order=2, window=32, penalty=0.002, epochs=2, window_starts=starts)
        with pytest.warns(ShortTrainingWarning):
            losses[starts] = [row["loss"] for row in train(step.network, step.var, prepared, settings)]
    assert len(losses["fixed"]) == len(losses["random"])
    assert losses["fixed"] != losses["random"]


def test_a_step_follows_the_mean_of_its_windows_each_normalised_by_itself(prepared):
    settings = Settings(
        order=2, window=32, penalty=0.002, epochs=1, batch_size=9, pooling="target", window_starts="fixed"
    )
    step, reference = build(prepared), build(prepared)
    with pytest.warns(ShortTrainingWarning, match="only 1 steps"):
        [row] = train(step.network, step.var, prepared, settings)
    windows = Windows(prepared, 32)
    before = {name: value.clone() for name, value in reference.network.named_buffers() if "running" in name}
    losses, averages = [], []
    for frames in windows:
        reference.network.load_state_dict(before, strict=False)
        losses.append(reference.training_step(frames[None], 0))
        (losses[-1] / 9).backward()
        averages.append({name: value.clone() for name, value in reference.network.named_buffers() if name in before})
    optimizer = reference.configure_optimizers()
    optimizer.step()
    assert row["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    for name, value in step.network.named_parameters():
        torch.testing.assert_close(value, reference.network.get_parameter(name), rtol=1e-3, atol=1e-5)
    for name, value in step.network.named_buffers():
        if name in before:
            torch.testing.assert_close(value, torch.stack([one[name] for one in averages]).mean(0))
        if "tracked" in name:
            assert value == 1


def test_epochs_default_to_500_steps():
    assert n_epochs(Settings(shortcut=False), n_windows=4) == 125
    assert n_epochs(Settings(), n_windows=10) == 25
    assert n_epochs(Settings(), n_windows=4) == 32
    assert n_epochs(Settings(), n_windows=1000) == n_epochs(Settings(shortcut=False), n_windows=1000) == 2
    assert n_epochs(Settings(shortcut=False, batch_size=2), n_windows=9) == 100
    assert n_epochs(Settings(epochs=3), n_windows=4) == 3


def test_training_lowers_the_loss_and_logs_every_step(prepared):
    step = build(prepared)
    with pytest.warns(ShortTrainingWarning):
        log = train(step.network, step.var, prepared, Settings(order=2, window=32, penalty=0.002, epochs=6))
    assert [row["step"] for row in log] == list(range(1, 55))
    assert log[-1]["epoch"] == 5
    losses = [row["loss"] for row in log]
    assert np.mean(losses[-9:]) < 0.5 * np.mean(losses[:9])
    assert log[-1]["n_active"] > 0


@pytest.mark.parametrize("penalty", [0.002, 50.0])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(penalty, prepared, tmp_path):
    def run(epochs, folder):
        step = build(prepared, penalty=penalty)
        settings = Settings(order=2, window=32, penalty=penalty, epochs=epochs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return step.network, train(step.network, step.var, prepared, settings, checkpoints=folder)

    whole, whole_log = run(4, tmp_path / "whole")
    run(2, tmp_path / "parts")
    resumed, resumed_log = run(4, tmp_path / "parts")
    assert resumed_log == whole_log
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_training_is_refused(session, prepared, tmp_path):
    def fit(runs=session, **settings):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            LatentVAR(**{"latents": "grid", "order": 2, "window": 32, "epochs": 1, **settings}).fit(
                runs, checkpoints=tmp_path
            )

    fit()
    kept = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(LarscopeError, match=r"of another: `shortcut` was True there, and is False.*remove it"):
        fit(shortcut=False)
    with pytest.raises(LarscopeError, match="its session had another mean frame"):
        fit(Session(session.runs[:2]))
    assert (tmp_path / "last.ckpt").read_bytes() == kept
    fit(epochs=2)
    assert finished_epochs(tmp_path) == 2
    with pytest.raises(LarscopeError, match=r"2 epochs behind it, and `epochs` is 1\. .*remove it"):
        fit(epochs=1)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    del checkpoint["state_dict"]["network.shortcut.filters"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(LarscopeError, match=r"another version of larscope.*remove it"):
        fit(epochs=3)


def test_warns_of_few_steps_and_of_a_penalty_that_leaves_nothing(prepared):
    step = build(prepared, penalty=50.0)
    with (
        pytest.warns(ShortTrainingWarning, match="only 9 steps"),
        pytest.warns(EmptyFitWarning, match="9 VAR fits of 9 had no active coefficient"),
    ):
        log = train(step.network, step.var, prepared, Settings(order=2, window=32, penalty=50.0, epochs=1))
    assert log[-1]["n_empty_fits"] == 9


def test_a_penalty_that_leaves_nothing_is_counted_by_window(prepared):
    step = build(prepared, penalty=50.0)
    settings = Settings(order=2, window=32, penalty=50.0, epochs=1, batch_size=2)
    with (
        pytest.warns(ShortTrainingWarning, match="only 5 steps"),
        pytest.warns(EmptyFitWarning, match="10 VAR fits of 10 had no active coefficient"),
    ):
        train(step.network, step.var, prepared, settings)


def test_a_diverged_training_says_so(prepared):
    step = build(prepared)
    settings = Settings(order=2, window=32, penalty=0.002, epochs=2)
    object.__setattr__(settings, "learning_rate", 1e12)  # more than `Settings` allows: what else diverges takes long
    with (
        pytest.warns(ShortTrainingWarning),
        pytest.raises(LarscopeError, match=r"Lower `learning_rate` \(now 1e\+12\)"),
    ):
        train(step.network, step.var, prepared, settings)


def test_a_damaged_checkpoint_is_replaced(prepared, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"half a checkpoi")
    step = build(prepared)
    settings = Settings(order=2, window=32, penalty=0.002, epochs=1)
    with pytest.warns(UserWarning, match="cannot be read"), pytest.warns(ShortTrainingWarning):
        train(step.network, step.var, prepared, settings, checkpoints=tmp_path)
    assert finished_epochs(tmp_path) == 1
