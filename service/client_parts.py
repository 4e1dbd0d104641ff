"""The parts of a client's interface that hold no state of their own: ``client.datasets``, ``client.ensembles`` and the like."""

from service import client_calls as calls
from service import client_figures
from service.client_methods import C, JobMethod, ListMethod, Method, Part, of_id


class Datasets(Part[C]):
    """``client.datasets``."""

    upload = Method(calls.upload)
    upload_arrays = Method(calls.upload_arrays)
    builtin = Method(calls.builtin)
    get = Method(calls.dataset)
    list = ListMethod(calls.datasets)
    delete = Method(calls.delete_dataset)


class Schedules(Part[C]):
    """``client.schedules``."""

    preview = Method(calls.preview_schedule)


class Jobs(Part[C]):
    """``client.jobs``."""

    train = JobMethod(calls.train)
    range_test = JobMethod(calls.range_test)
    study = JobMethod(calls.study)
    evaluate = JobMethod(client_figures.evaluate)
    submit = JobMethod(calls.submit)
    get = JobMethod(calls.job)
    list = ListMethod(calls.jobs)
    dry_run = Method(calls.dry_run)
    check = Method(calls.check)


class Snapshots(Part[C]):
    """``client.snapshots``."""

    get = Method(calls.snapshot)
    download = Method(calls.download)


class Ensembles(Part[C]):
    """``client.ensembles``."""

    create = Method(calls.create_ensemble)
    alias = Method(calls.alias)
    aliases = Method(calls.aliases)
    point_alias = Method(calls.point_alias)
    delete_alias = Method(calls.delete_alias)

    def get(self, ensemble_id: str) -> "Ensemble[C]":
        """The ensemble of that id or alias; asks nothing yet."""
        return Ensemble(self.client, ensemble_id)


class Ensemble(Part[C]):
    """Averages its members' predictions; a job's ensemble answers from the first snapshot on and grows."""

    describe = Method(of_id(calls.ensemble))
    predict = Method(of_id(calls.predict))
    explain = Method(of_id(calls.explain))
