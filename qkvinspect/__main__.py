"""python -m qkvinspect"""

from qkvinspect.cli import run

if __name__ == "__main__":
    run()
