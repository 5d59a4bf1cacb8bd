"""Every method's comparisons, one line each: the method, what was recorded, our recipe.

`python -m tests.scorecard` measures them. A method of the registry has at least one; a
new one is one line, with `own(NAME)` where no implementation but ours could be run.
"""

import numpy as np

import jaxmerge as J
from tests.oracles.compare import AUTHORS, PORT, one_more
from tests.oracles.compare_libraries import lora, mergekit, merging_eval, own
from tests.oracles.compare_research import (
    ace_of_the_authors,
    actmat_of_a_port,
    adapters,
    by_tensor,
    coordinates,
    core_size,
    dare_of_the_authors,
    dc_density,
    emr_of_the_authors,
    esm_of_the_authors,
    lines_of_the_authors,
    of_deltas,
    of_factors,
    of_weights,
    pcb_of_the_authors,
    research,
    tall_masks_of_the_authors,
    tsv_c_of_the_authors,
    whole_size,
    with_statistics,
)

SMOOTHINGS = {"avg": "mean", "linear": "linear"}


def sums(case, weights):
    return J.task_arithmetic(scale=1.0, weights=weights)


def magnitude(case, weights):
    return J.magnitude_prune(density=case.params["density"], weights=weights)


def ties(case, weights):
    return J.ties(density=case.params["density"], weights=weights, compat="peft")


def ties_of_shares(case, weights):
    """As RHT's authors call theirs: with weights over their sum."""
    return ties(case, weights / weights.sum())


def dare(case, weights):
    consensus = case.method.removeprefix("dare_")
    return J.dare(
        density=case.params["density"],
        weights=weights,
        consensus=consensus,
        normalize=consensus == "ties",
        compat="peft",
    )


def rht(case, weights):
    return J.rht(density=case.params["density"], weights=weights, compat="reference")


def ties_tree(case):
    return J.ties(
        density=one_more(case.about["density"], whole_size(case)),
        scope="tree",
        normalize=case.about.get("merge_func", "mean") == "mean",
    )


def ties_of_subsets(about, base):
    """What keeps n - k + 1 entries, k = int(n * mask_rate); all of them at k = 0."""
    dropped = {k: max(int(x.size * about["mask_rate"]) - 1, 0) for k, x in base.items()}
    # Half an entry more, so that rounding takes none away.
    kept = {k: min((x.size - dropped[k] + 0.5) / x.size, 1.0) for k, x in base.items()}
    return J.ties(density=kept, scale=about["scale"])


def consensus(case):
    about = case.about
    return J.consensus(
        threshold=about["tall_mask_lambda"], min_tasks=about["prun_thre_k"], scale=1.0
    )


def iso_cts(case):
    return J.iso_cts(common=case.about["common_space_fraction"])


def dc_of_adapters(case):
    about = case.about
    return J.dc_merge(
        density=about["density"],
        rank=about["rank"],
        smoothing=SMOOTHINGS[about["smoothing"]],
        ratio=about["ratio"],
    )


def knots(case, name):
    size = case.base[name].size
    return J.knots(J.ties(density=one_more(case.about["density"], size)))


def knots_of_adapters(case):
    density = one_more(case.about["density"], coordinates(case))
    return J.knots(J.ties(density=density))


def core_space(case):
    inner = {
        "core_sum": J.task_arithmetic(scale=1.0),
        "core_ties": J.ties(density=one_more(0.2, core_size(case))),
        "core_tsv": J.tsv_m(),
    }
    return J.core_space(inner[case.name])


def wudi(case):
    about = case.about
    return J.wudi(learning_rate=about["learning_rate"], steps=about["steps"])


def swudi(case):
    return J.swudi(time=case.about["time"], share=case.about["share"])


def svc(case):
    sums = J.task_arithmetic(scale=case.about["scale"])
    return J.svc(sums, floor=case.about["alpha"])


def fisher(case):
    """Theirs adds its floor, and may divide each Fisher by its norm over the model."""
    floor, weights = (
        case.about["minimal_fisher_weight"],
        np.array(case.about["weights"]),
    )
    if case.name == "fisher_normalize_true":
        square = lambda side: sum(np.sum(np.float64(x) ** 2) for x in side.values())
        weights = weights / (np.sqrt([square(side) for side in case.side]) + floor)
    return J.fisher(floor=floor, weights=np.float32(weights), compat="reference")


def regmean(case):
    return J.regmean(off_diagonal=case.about["reduce_non_diagonal_ratio"])


COMPARISONS = [
    research("average", "average", of_weights(J.average(), based=False)),
    mergekit("average", "linear", "linear_unnormalized"),
    merging_eval("average", "average", lambda about, base: J.average()),
    mergekit("task_arithmetic", "task_arithmetic", "task_arithmetic_lambda_normalize"),
    lora("task_arithmetic", "peft", "task_arithmetic", sums),
    merging_eval(
        "task_arithmetic",
        "task_arithmetic_0.3",
        lambda about, base: J.task_arithmetic(scale=about["scale"]),
    ),
    mergekit("ties", "ties_density_0.2", "ties_density_0.5", "ties_mixed_densities"),
    lora("ties", "peft", "ties", ties),
    lora("ties", "rht", "ties", ties_of_shares, kind=PORT),
    merging_eval("ties", "ties_0.8", ties_of_subsets),
    research("ties_tree", "ties", of_deltas(ties_tree)),
    research("ties_tree", "fusion_ties_20", of_deltas(ties_tree)),
    research(
        "dare_linear", "dare_random", dare_of_the_authors, "each expert by itself"
    ),
    mergekit("dare_linear", "dare_linear", "dare_linear_unrescaled"),
    lora("dare_linear", "peft", "dare_linear", dare),
    mergekit("dare_ties", "dare_ties", "dare_ties_normalize_lambda"),
    lora("dare_ties", "peft", "dare_ties", dare),
    lora("magnitude_prune", "peft", "magnitude_prune", magnitude),
    mergekit("breadcrumbs", "breadcrumbs", "breadcrumbs_rescale", "breadcrumbs_ties"),
    mergekit("della", "della", "della_linear"),
    mergekit("slerp", "slerp"),
    mergekit("nuslerp", "nuslerp", "nuslerp_by_row", "nuslerp_rowwise_no_base"),
    mergekit("multislerp", "multislerp", "multislerp_of_deltas"),
    mergekit("karcher", "karcher", "karcher_with_base"),
    mergekit("nearswap", "nearswap"),
    research("model_stock", "model_stock_2", of_weights(J.model_stock())),
    mergekit("model_stock", "model_stock", "model_stock_filter_wise"),
    research("consensus", "consensus", of_deltas(consensus)),
    research("emr", "emr", emr_of_the_authors),
    research("isotropic", "iso_c", of_deltas(lambda case: J.isotropic())),
    research("iso_cts", "iso_cts", of_deltas(iso_cts)),
    research("ace", "off", ace_of_the_authors, "float64"),
    research("ace", "on", ace_of_the_authors, "float64"),
    research("tsv_c", "tsvc", tsv_c_of_the_authors),
    research("tsv_m", "tsv_m", of_deltas(lambda case: J.tsv_m(compat="reference"))),
    research(
        "dc_merge",
        "dc",
        by_tensor(lambda c, name: J.dc_merge(density=dc_density(c, name))),
    ),
    adapters("dc_merge", "dc", of_deltas(dc_of_adapters)),
    research("knots", "knots", by_tensor(knots)),
    adapters("knots", "knots", of_factors(knots_of_adapters)),
    adapters("core_space", "core", of_factors(core_space)),
    mergekit("arcee_fusion", "arcee_fusion"),
    research("magmax", "magmax", of_deltas(lambda case: J.magmax(scale=1.0))),
    mergekit("ram", "ram"),
    mergekit("ram_plus", "ramplus_tl"),
    mergekit("sce", "sce"),
    research("svc", "svc", of_deltas(svc)),
    own("subspace_boosting"),
    research("wudi", "wudi", of_deltas(wudi)),
    research("swudi", "swudi", of_deltas(swudi)),
    research("fisher", "fisher", with_statistics(fisher)),
    research("regmean", "regmean", with_statistics(regmean)),
    own("metagpt"),
    own("metagpt_leaf"),
    research("lines", "lines", lines_of_the_authors),
    research("pcb", "pcb", pcb_of_the_authors, "flattened models"),
    research("tall_masks", "tall_masks", tall_masks_of_the_authors),
    research("esm", "esm", esm_of_the_authors),
    own("lot"),
    own("cat"),
    own("default"),
    research("actmat", "actmat", actmat_of_a_port, kind=PORT),
    lora("rht", "rht", "rht", rht, kind=AUTHORS),
]
