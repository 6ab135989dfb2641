"Reads settings.ini; see pyproject.toml for nbdev's own settings"
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='], interpolation=None)
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
lab = cfg['lab_requirements'].split()
name = cfg['lib_name']
readme = here/'README.md'

setup(
    name=name, version=cfg['version'], description=cfg['description'], author=cfg['author'], license=cfg['license'],
    keywords=cfg['keywords'].split(), python_requires='>='+cfg['min_python'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else '',
    long_description_content_type='text/markdown',
    packages=[*find_packages(include=[name, name+'.*']), name+'.data_samples'],
    package_dir={name+'.data_samples': 'data_samples'},
    package_data={name: ['static/*'], name+'.data_samples': ['*', 'results/*.json']},
    install_requires=cfg['requirements'].split(),
    extras_require={'lab': lab, 'dev': lab+cfg['dev_requirements'].split()},
    entry_points={'console_scripts': cfg['console_scripts'].split()}, zip_safe=False)
