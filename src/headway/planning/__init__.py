"""What a training run needs before it is started: parameters, memory, time, communication."""
