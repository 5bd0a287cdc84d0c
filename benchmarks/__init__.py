"""Programs that measure, side by side with what there is to compare with."""
