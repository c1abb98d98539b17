"""An archive with a unique identifier in everything that can hold text, for tests that look for them in what a run wrote."""

import datetime
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import datadict
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import generate_uid
from xa_maker import item, make_xa

from dsa_lib.curation.identifier_search import Needle

SIZE, FRAMES = 96, 4
VRS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UI", "UR", "UT", "DA", "DT", "TM", "IS", "DS")
READ = (
    "PatientSex",
    "PatientBirthDate",
    "StudyDate",
    "ProtocolName",
    "BodyPartExamined",
    "PatientName",
)  # in every file
# Steer what curation does with a file; `make_xa` or a case below sets them.
STEERING = """SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID ImageType PatientAge SeriesDescription PositionerMotion
    PixelIntensityRelationship PhotometricInterpretation BurnedInAnnotation ShutterShape CollimatorShape PlaneIdentification SpecificCharacterSet
    PresentationLUTShape TimezoneOffsetFromUTC""".split()
NUMERIC_READ = """PositionerPrimaryAngle PositionerSecondaryAngle FrameTime FrameTimeVector CineRate NumberOfFrames WindowCenter WindowWidth
    RescaleSlope RescaleIntercept PixelIntensityRelationshipSign PositionerPrimaryAngleIncrement PositionerSecondaryAngleIncrement""".split()


class Planter:
    """Makes unique texts and remembers them with the place that they were planted in."""

    def __init__(self):
        self.needles: list[Needle] = []
        self._next = 0

    def text(self, place: str, room: int = 12) -> str:
        self._next += 1
        return self._note(place, f"ZQ{self._next:06d}XW"[:room])

    def uid(self, place: str) -> str:
        self._next += 1
        return self._note(place, f"1.2.826.0.1.3680043.9.7777.1{self._next:06d}")

    def value(self, vr: str, place: str) -> object:
        """A legal value of the VR that occurs nowhere else."""
        place = f"{place} {vr}"
        if vr == "UI":
            return self.uid(place)
        if vr == "UR":
            return f"http://{self.text(place)}/x"
        if vr in ("DA", "DT"):
            self._next += 1
            day = datetime.date(1921, 1, 1) + datetime.timedelta(days=self._next % 25_000)
            self.needles += [Needle(place, day.strftime(form)) for form in ("%Y%m%d", "%Y-%m-%d", "%d.%m.%Y")]
            if vr == "DT":
                self._note(place, day.strftime("%Y%m%d115959"))
            return day.strftime("%Y%m%d" if vr == "DA" else "%Y%m%d115959")
        if vr == "TM":
            self._next += 1
            return self._note(place, f"112233.{100_000 + self._next}")
        if vr in ("IS", "DS"):
            self._next += 1
            return self._note(place, str(910_000_000 + self._next))
        if vr == "PN":
            return f"{self.text(place)}^{self.text(place)}"
        return self.text(place)

    def _note(self, place: str, text: str) -> str:
        self.needles.append(Needle(place, text))
        return text


def everything(planter: Planter, case: str, most: int) -> Dataset:
    """A data set with textual elements of the DICOM dictionary planted (`most` a VR) but those that steer curation; sequences, private ones, overlays."""
    plant, counts = Dataset(), Counter()
    for tag, (vr, *_, keyword) in datadict.DicomDictionary.items():
        if keyword and tag >> 16 not in (0x0000, 0x0002, 0x0004) and keyword not in (*STEERING, *NUMERIC_READ):
            counts[vr] += 1
            if vr in VRS and (counts[vr] <= most or keyword in READ):
                plant.add_new(tag, vr, planter.value(vr, f"{case}: {keyword}"))
    inner = item(PatientName=planter.value("PN", f"{case}: nested"), TextValue=planter.text(f"{case}: nested UT"))
    inner.OtherPatientIDsSequence = Sequence([item(PatientID=planter.text(f"{case}: nested twice"))])
    plant.RequestAttributesSequence = Sequence([inner])
    comments = item(FrameComments=planter.text(f"{case}: functional group"))
    plant.SharedFunctionalGroupsSequence = Sequence([item(FrameContentSequence=Sequence([comments]))])
    block = plant.private_block(0x0029, planter.text(f"{case}: private creator"), create=True)
    block.add_new(1, "LO", planter.text(f"{case}: private LO"))
    block.add_new(2, "OB", planter.text(f"{case}: private OB").encode())
    block.add_new(3, "UN", planter.text(f"{case}: private UN").encode())
    block.add_new(4, "SQ", Sequence([item(PatientID=planter.text(f"{case}: private SQ"))]))
    pixels = np.packbits(written("OVERLAY", 14) > 128, bitorder="little").tobytes()
    for group in (0x6000, 0x6002):
        for element, vr, value in (
            (0x10, "US", SIZE), (0x11, "US", SIZE), (0x40, "CS", "G"), (0x50, "SS", [1, 1]), (0x100, "US", 1), (0x102, "US", 0),
            (0x22, "LO", planter.text(f"{case}: overlay description")), (0x1500, "LO", planter.text(f"{case}: overlay label")),
            (0x3000, "OW", pixels),
        ):  # fmt: skip
            plant.add_new(Tag(group, element), vr, value)
    return plant


def written(text: str, points: int, at=(4, 8)) -> np.ndarray:
    """uint8 [SIZE, SIZE]: `text` in white on black."""
    image = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(image).text(at, text, fill=255, font=ImageFont.load_default(points))
    return np.asarray(image)


def make_archive(folder: Path) -> tuple[list[Needle], dict[str, np.ndarray]]:
    """Write the archive into a folder with a planted name below `folder`; returns (needles, burned-in patterns) and leaves nothing else there."""
    planter, rng = Planter(), np.random.default_rng(7)
    root = folder / planter.text("archive folder")
    cases = {
        "anterior": {},
        "posterior": {"SeriesDescription": "AV li {}"},
        "anterior, patient without a date": {"StudyDate": None},
        "excluded by territory": {"SeriesDescription": "ECA {}"},
        "excluded as rotational": {"PositionerMotion": "DYNAMIC"},
        "excluded without a vessel": {"SeriesDescription": "{}"},
        "steering values": {"PixelIntensityRelationship": "{}", "PositionerMotion": "{}", "ShutterShape": "{}", "PlaneIdentification": "{}"},
        "display": {"PixelIntensityRelationship": "DISP", "MaskSubtractionSequence": None, "WindowCenter": 2000, "WindowWidth": 900},
        "quarantined: display": {"PixelIntensityRelationship": "DISP", "VOILUTFunction": "{}", "WindowCenter": 2000, "WindowWidth": 900},
        "quarantined: class": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
        "quarantined: value": {"PhotometricInterpretation": "{}"},
        "quarantined: tag": {"BurnedInAnnotation": "YES"},
        "quarantined: text": {},
        "quarantined: text, display": {"PixelIntensityRelationship": "DISP", "MaskSubtractionSequence": None},
        "quarantined: truncated": {},
        "duplicate": {},
        "another of the same UID": {},
    }  # fmt: skip
    pattern = written("ZQNAME^ERIKA", 14)
    for number, (case, elements) in enumerate(cases.items()):
        place = root / planter.text(f"{case}: folder name")
        place.mkdir(parents=True)
        path = place / f"{planter.text(f'{case}: file name')}.dcm"
        frames = rng.normal(2000, 40, (FRAMES, SIZE, SIZE))
        if "text" in case:
            frames = np.where(pattern > 128, 4095, frames)
        # Every element of the dictionary in one file of each fate, a few of each VR in the others: thousands a file take their time.
        planted = everything(
            planter, case, 10_000 if case in ("anterior", "excluded by territory", "quarantined: value") else 3
        )
        given = {element.keyword: element.value for element in planted if element.keyword}
        given |= {
            "PatientID": planter.text(f"{case}: PatientID"),
            "SOPInstanceUID": planter.uid(f"{case}: SOP"), "SeriesInstanceUID": planter.uid(f"{case}: series"),
            "StudyInstanceUID": planter.uid(f"{case}: study"),
            "SeriesDescription": f"ICA re {planter.text(f'{case}: description')}", "PatientAge": "091Y",
            "ImageType": ["ORIGINAL", planter.text(f"{case}: ImageType"), f"BIPLANE {'AB'[number % 2]}"],
        }  # fmt: skip
        for name, value in elements.items():
            given[name] = (
                value.format(planter.text(f"{case}: {name}")) if isinstance(value, str) and "{}" in value else value
            )
        whole = make_xa(path, np.clip(frames, 0, 4095).astype(np.uint16), **given)
        for element in planted:
            if not element.keyword:
                whole[element.tag] = element
        whole.file_meta.SourceApplicationEntityTitle = planter.text(f"{case}: file meta AE")
        whole.file_meta.ImplementationVersionName = planter.text(f"{case}: file meta SH")
        whole.file_meta.PrivateInformationCreatorUID = generate_uid(entropy_srcs=["x"])
        whole.file_meta.PrivateInformation = planter.text(f"{case}: file meta OB").encode()
        whole.preamble = planter.text(f"{case}: preamble").encode().ljust(128, b"\0")
        whole.save_as(path, enforce_file_format=True)
        if case.endswith("truncated"):
            path.write_bytes(path.read_bytes()[:-4000])
        if case == "duplicate":
            shutil.copy(path, place / f"{planter.text(f'{case}: name of the copy')}.dcm")
        if case.startswith("another"):
            frames[:] = 2000
            make_xa(place / "b.dcm", frames.astype(np.uint16), **given)
    (root / f"{planter.text('report name')}.txt").write_text(planter.text("report"))
    (root / "unreadable").symlink_to(folder / planter.text("target of a link"))
    return planter.needles, {"burned-in text": cut(pattern), "overlay": cut(written("OVERLAY", 14))}


def cut(picture: np.ndarray) -> np.ndarray:
    """`picture` within the bounding box of what is not black."""
    rows, columns = np.nonzero(picture)
    return picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
