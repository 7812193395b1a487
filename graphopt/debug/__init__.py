"""What the debugging tools in ``graphopt.tools`` are made of.

``search`` decides what to try next and knows no model; ``recipe`` makes a model from a
pipeline and a number of rewrites; ``checks`` says whether it is right; ``isolated`` keeps a
crash at arm's length; ``record`` remembers what was found, also through a crash; ``blame``
puts them together; ``script`` is what the tools' command lines share.
"""
