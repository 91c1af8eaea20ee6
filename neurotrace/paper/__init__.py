"""The study of Huang et al. (EMNLP 2025, arXiv 2412.18497), reproduced and compared.

python -m neurotrace.paper --out runs/paper

May import: studies and below.
"""
