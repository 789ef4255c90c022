"""Describes the distribution and puts configs and tools beside the installed package."""

import os
import shutil
from pathlib import Path
from runpy import run_path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NEEDS = run_path(str(ROOT / 'tl_plugin' / '_requirements.py'))
VERSION = run_path(str(ROOT / 'tl_plugin' / 'version.py'))['__version__']
# What OpenMMLab's tools look for in the folder `.mim` of a package, and where it lies here.
SHIPPED = {
    'configs': 'configs',
    'tools': 'tools',
    'model-index.yml': 'configs/model-index.yml',
}


class BuildWithConfigs(build_py):
    """Copies configs and tools into ``tl_plugin/.mim``; an editable install gets links instead."""

    def run(self):
        if not self.editable_mode:
            # What an earlier build left there would be packed again, deleted modules too.
            shutil.rmtree(Path(self.build_lib) / 'tl_plugin', ignore_errors=True)
        super().run()
        package = ROOT if self.editable_mode else Path(self.build_lib)
        mim = package / 'tl_plugin' / '.mim'
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name, source in SHIPPED.items():
            self._place(ROOT / source, mim / name)

    def _place(self, source, target):
        if self.editable_mode:
            try:
                target.symlink_to(os.path.relpath(source, target.parent))
                return
            except OSError:
                # Windows without the right to make links: a copy, renewed by each install.
                pass
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__', '*.pyc'))
        else:
            shutil.copy(source, target)

    def get_outputs(self, include_bytecode=1):
        mim = Path(self.build_lib) / 'tl_plugin' / '.mim'
        shipped = [str(path) for path in mim.rglob('*') if path.is_file()]
        return super().get_outputs(include_bytecode) + shipped


def read(name):
    path = ROOT / name
    return path.read_text(encoding='utf-8') if path.is_file() else ''


setup(
    name='mmpretrain-tl-plugin',
    version=VERSION,
    description='Transfer learning and domain adaptation strategies for mmpretrain',
    long_description=read('README.md'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    keywords='transfer-learning domain-adaptation mmpretrain openmmlab pytorch',
    packages=find_packages(include=['tl_plugin', 'tl_plugin.*']),
    # Templates and tables beside the modules that read them.
    package_data={'': ['*.j2', '*.html', '*.css', '*.js', '*.json', '*.yml']},
    python_requires='>=3.9',
    entry_points={'console_scripts': ['tl-plugin = tl_plugin.launch.console:main']},
    install_requires=NEEDS['RUNTIME'],
    extras_require={
        **NEEDS['STACKS'],
        'lite': NEEDS['LITE'],
        'parquet': NEEDS['PARQUET'],
        'export': NEEDS['EXPORT'],
        'test': NEEDS['TEST'],
    },
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
)
