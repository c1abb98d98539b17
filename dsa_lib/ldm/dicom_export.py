"""Export of generated frames as DICOM that no reader can take for a patient's.

**Object.** Secondary Capture Image Storage (PS3.3 A.8.1), one file an image. X-Ray Angiographic Image Storage would say that an X-ray system acquired
the pixels, and every reader of angiograms, this project's among them, looks for that class. Secondary capture is the class for pixels that did not
come from a modality; it has a conversion type for just this, SYN (synthetic image). The multi-frame grey-scale byte class (A.8.3) would put images that belong
to no common time or view into one object with one header, and fewer viewers open it.

**Marks.** Synthetic Data (0008,001C) is the standard's own attribute, "YES" where content was made artificially. Because software older than that
attribute ignores it, what a person reads says so too: patient, study and series description, image comments, derivation, image type. Modality is OT: a
worklist of angiograms must not list them. There is no patient, so no birth date, sex or age; attributes that must be present are empty.
The positioner angles are not part of the class; a standard extended SOP class may hold them (PS3.2).

**Identifiers.** UIDs are derived from what they name under the root 2.25 (PS3.5 B.2), so that the same images exported again are the same instances, and
other pixels are another one.
"""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from dsa_lib.core.images import read_images
from dsa_lib.ldm.sampling import SYNTHETIC_MARK
from dsa_lib.run.errors import StudyError
from dsa_lib.run.workspace import atomic_write

WHO = "SYNTHETIC"  # patient's name and ID
MANUFACTURER = "DSA synthesis compendium"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "synthetic.dsa-synthesis-compendium")
_PROCESSING_EQUIPMENT = ("109102", "DCM", "Processing Equipment")  # PS3.16 CID 7005


def uid(*parts: object) -> str:
    """A UID derived from `parts`: 2.25 and the number of a name-based UUID (RFC 4122, version 5)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '|'.join(map(str, parts))).int}"


def dataset(frame: np.ndarray, row: Mapping[str, object], plan: str = "") -> Dataset:
    """The DICOM data set of one generated frame, uncompressed. `plan` tells the series of one set of images from that of another.

    `frame`: uint8 [H, W]; `row`: its row of a manifest of `dsa_lib.ldm.sampling` (sentence, seed, circulation, plane, angles in degrees, model hash, scheduler,
    steps, guidance, and its number in `image_id`). Raises StudyError for other pixels.
    """
    if frame.ndim != 2 or frame.dtype != np.uint8:
        raise StudyError(
            f"a frame of {frame.dtype} and shape {frame.shape} cannot be exported: 8-bit grey [height, width] is needed"
        )
    # Images of two plans, such as the reader and the Fréchet set, are two series: their numbers both begin at 1.
    series = (row["model"], row["scheduler"], row["steps"], row["guidance"], plan)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.SOPInstanceUID = uid(
        *series, row["sentence"], row["seed"], frame.shape, hashlib.sha256(frame.tobytes()).hexdigest()
    )
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationClassUID = uid("implementation")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SyntheticData = "YES"
    _nobody(ds)
    ds.StudyInstanceUID = uid("study", row["model"])
    ds.StudyDate = ds.StudyTime = ds.ReferringPhysicianName = ds.StudyID = ds.AccessionNumber = ""
    ds.StudyDescription = f"{WHO}: generated angiograms, no patient"
    ds.Modality, ds.SeriesInstanceUID = "OT", uid("series", *series)
    ds.SeriesNumber, ds.InstanceNumber = 1, int("".join(filter(str.isdigit, str(row["image_id"]))) or 0) + 1
    ds.SeriesDescription = f"{WHO} DSA, {row['scheduler']}, {row['steps']} steps"[:64]
    _maker(ds, row)
    ds.ImageType, ds.ConversionType = ["DERIVED", "SECONDARY", WHO], "SYN"
    ds.ContentQualification = "RESEARCH"
    ds.PatientOrientation = ""
    ds.ImageComments = f"{WHO}. {SYNTHETIC_MARK} Sentence: {row['sentence']} Seed: {row['seed']}."
    ds.DerivationDescription = (
        f"{WHO}: sampled by a latent diffusion model from the sentence {row['sentence']!r}, seed {row['seed']}, {row['scheduler']}, "
        f"{row['steps']} steps, guidance {row['guidance']:g}, model sha256 {row['model']}"
    )
    ds.PositionerPrimaryAngle = f"{row['primary_angle_deg']:g}"
    ds.PositionerSecondaryAngle = f"{row['secondary_angle_deg']:g}"
    ds.BurnedInAnnotation = ds.RecognizableVisualFeatures = "NO"
    ds.LossyImageCompression = "00"
    # PS3.3 C.11.2.1.2: centre 128 and width 256 show 8-bit values as they are.
    ds.WindowCenter, ds.WindowWidth = "128", "256"
    ds.set_pixel_data(frame, "MONOCHROME2", 8, generate_instance_uid=False)
    return ds


def _nobody(ds: Dataset) -> None:
    ds.PatientName, ds.PatientID = f"{WHO}^NO PATIENT", WHO
    ds.PatientBirthDate = ds.PatientSex = ""  # type 2: present, and empty because nobody was born
    ds.PatientComments = SYNTHETIC_MARK


def _maker(ds: Dataset, row: Mapping[str, object]) -> None:
    """Whose image it is: general equipment (C.7.5.1), and what made it (contributing equipment, C.12.1)."""
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = "latent diffusion model"
    ds.SoftwareVersions = str(row["model"])[:64]
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = _PROCESSING_EQUIPMENT
    maker = Dataset()
    maker.PurposeOfReferenceCodeSequence = Sequence([purpose])
    maker.Manufacturer, maker.ManufacturerModelName = ds.Manufacturer, ds.ManufacturerModelName
    maker.SoftwareVersions = ds.SoftwareVersions
    maker.ContributionDescription = (
        f"Generated every pixel; sampler {row['scheduler']}, {row['steps']} steps, seed {row['seed']}"
    )
    ds.ContributingEquipmentSequence = Sequence([maker])


def write(path: Path, frame: np.ndarray, row: Mapping[str, object], plan: str = "") -> None:
    """Write one generated frame (uint8 [H, W]) with its row of the manifest as DICOM. The same inputs give the same bytes."""
    with atomic_write(path) as temporary:
        pydicom.dcmwrite(temporary, dataset(frame, row, plan), enforce_file_format=True)


def export(folder: Path, manifest: pd.DataFrame, track: Callable = iter) -> Path:
    """Write `dicom/<image_id>.dcm` beside the PNGs of `folder` for each row of its manifest; files that are there are written over. Returns the folder."""
    target = Path(folder) / "dicom"
    target.mkdir(exist_ok=True)
    for row in track(manifest.to_dict("records")):
        write(target / f"{row['image_id']}.dcm", read_images(folder, [row["file"]])[0], row, Path(folder).name)
    return target
