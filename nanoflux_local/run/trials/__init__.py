"""The trial of a run's judge: it decides on solutions known to be right or wrong, which measures its error rates."""
