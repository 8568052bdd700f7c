"""Run an experiment: `python main.py`, `python main.py --help`, `python main.py -m shots=1,10,30 seed=0,1,2`."""

import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from refexp.command.job import command_line, run_job
from refexp.machine.processes import wait_briefly


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> float | None:
    """Run the composed experiment into its output folder. Returns its objective, for Hydra's sweepers."""
    running = HydraConfig.get()
    output = Path(running.runtime.output_dir)
    return run_job(config, output, list(running.overrides.task))


if __name__ == "__main__":
    wait_briefly()  # not on import: a program that only imports refexp decides this itself

    sys.exit(command_line(main))
