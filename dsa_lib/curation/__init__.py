"""An archive to labelled frames (notebooks 01 and 02): files, filters, circulation, annotations, the phase classifier."""
