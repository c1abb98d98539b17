"""A phantom archive of cerebral angiography: simulated biplane runs written as ordinary multi-frame XA DICOM.

Nothing in this package is clinical data. The arteries are 3-D trees (named trunks as anatomical polylines, branching by Murray's law below them), seen
through the C-arm's cone beam, and filled by a bolus; the frames are raw and unsubtracted, so that everything downstream has to do what it would do
with a hospital's archive. `body` holds one simulated patient, `imaging` one acquisition; `plan` says who is in the archive, `archive` writes it, and
`truth` knows what the frames show.
"""
