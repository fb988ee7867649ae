"""How far a training scales: the same page at several sizes, what limits it, and what more workers would bring.

asked      what is to be studied, from the words of the command
study      every size trained, one after another, resumable
sizes      the page of each size; what is measured of its training
lanes      a search's trials side by side in one process
laws       Amdahl's and Gustafson's law, fitted
verdict    whether a speed-up costs accuracy
planner    more workers than there are: step time, efficiency, and how wrong this is where it was measured
found      what came out, as one value; scaling.json
page       report.html of a study
"""
