"""The examples' converters, on a few rows in the layouts in which the data sets are published."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tfserve import tasks
from tfserve.tables import Table, read_table

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def converted(script: str, source: Path, tables: Path) -> list[str]:
    """Run a converter; what it prints."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / script, source, tables],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def write(folder: Path, **files: str) -> None:
    """``a__b`` is the file ``b`` in the folder ``a``."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def read(tables: Path, split: str, task_name: str, *, use_bbox: bool = False) -> Table:
    return read_table(tables / f"{split}.csv", tasks.get(task_name), use_bbox=use_bbox)


def pairs(table: Table) -> list[tuple[str, object]]:
    return [(row.record.text, row.label) for row in table.rows]


def test_hate_speech(tmp_path: Path) -> None:
    metadata = "file_id,user_id,subforum_id,num_contexts,label\n"
    write(
        tmp_path / "source",
        annotations_metadataDOTcsv=metadata + "1_1,7,3,0,noHate\n1_2,7,3,0,hate\n2_1,8,3,1,hate\n",
        sampled_train__1_1DOTtxt='He said "hello"\tto me .\n',
        sampled_train__1_2DOTtxt="Out with them .",
        sampled_test__2_1DOTtxt="They are vermin .",
    )
    said = converted("hate_speech/vicomtech.py", tmp_path / "source", tmp_path / "tables")
    assert said[0].endswith("train.csv: 2 rows")
    train = read(tmp_path / "tables", "train", "classif")
    assert pairs(train) == [('He said "hello" to me .', "noHate"), ("Out with them .", "hate")]
    assert pairs(read(tmp_path / "tables", "test", "classif")) == [("They are vermin .", "hate")]


def test_stack_overflow(tmp_path: Path) -> None:
    titles = [f'Title {i} with a "quote"' for i in range(20)]
    write(
        tmp_path / "source" / "rawText",
        title_StackOverflowDOTtxt="\n".join(titles) + "\n",
        label_StackOverflowDOTtxt="5\n20\n" * 10,
    )
    converted("stack_overflow/titles.py", tmp_path / "source", tmp_path / "tables")
    test = read(tmp_path / "tables", "test", "classif")
    assert pairs(test) == [  # of each tag every fifth
        (titles[8], "excel"), (titles[9], "magento"), (titles[18], "excel"), (titles[19], "magento")
    ]  # fmt: skip
    train = read(tmp_path / "tables", "train", "classif")
    assert len(train.rows) == 16 and sorted(set(train.labels)) == ["excel", "magento"]


def test_newsgroups(tmp_path: Path) -> None:
    post = (
        "From: somebody@host.example (Some Body)\nOrganization: A school\n"
        "Subject: Re: Which  bike?\nLines: 3\n\nwrite to me@there.example.org\n\n> a quote \xe9\n"
    )
    for split, group in (("train", "rec.motorcycles"), ("test", "sci.space")):
        folder = tmp_path / "source" / f"20news-bydate-{split}" / group
        folder.mkdir(parents=True)
        (folder / "1001").write_text(post, "latin-1")
    (tmp_path / "source/20news-bydate-train/rec.motorcycles/1002").write_text(
        "Subject: Re:\nNNTP-Posting-Host: x.example\n\nno subject\n"
    )
    (tmp_path / "source/20news-bydate-train/rec.motorcycles/1003").write_text("From: me\n\n\n")
    converted("long_documents/newsgroups.py", tmp_path / "source", tmp_path / "tables")
    text = "Which bike? write to EMAIL > a quote é"
    assert pairs(read(tmp_path / "tables", "train", "classif")) == [
        (text, "rec.motorcycles"), ("no subject", "rec.motorcycles")
    ]  # fmt: skip
    assert pairs(read(tmp_path / "tables", "test", "classif")) == [(text, "sci.space")]


def test_emotions(tmp_path: Path) -> None:
    write(
        tmp_path / "source",
        emotionsDOTtxt="admiration\namusement\nneutral\n",
        trainDOTtsv='A "great"\u2028one, lol\t0,1\teecwqtt\nOk then\t2\ted5f85d\n',
        devDOTtsv="Hm\t2\ta\n",
        testDOTtsv="Ha\t1\tb\n",
    )
    converted("emotions/goemotions.py", tmp_path / "source", tmp_path / "tables")
    train = read(tmp_path / "tables", "train", "multilabel-classif")
    assert pairs(train) == [
        ('A "great" one, lol', ("admiration", "amusement")), ("Ok then", ("neutral",))
    ]  # fmt: skip
    assert pairs(read(tmp_path / "tables", "dev", "multilabel-classif")) == [("Hm", ("neutral",))]


def test_entities(tmp_path: Path) -> None:
    write(
        tmp_path / "source",
        wnut17trainDOTconll='The\tO\nEmpire\tB-location\nState\tI-location\n\n"\tO\nAb\tB-person\n',
        emergingDOTdevDOTconll="a\u2028b\tB-product\n\u200a\tO\n",
        emergingDOTtestDOTannotated="\nx\tO\n\t\ny\tB-group\n\n\n",
    )
    converted("entities/wnut17.py", tmp_path / "source", tmp_path / "tables")
    assert pairs(read(tmp_path / "tables", "train", "ner")) == [
        ("The Empire State", ("O", "B-location", "I-location")), ('" Ab', ("O", "B-person"))
    ]  # fmt: skip
    assert pairs(read(tmp_path / "tables", "dev", "ner")) == [("ab _", ("B-product", "O"))]
    assert pairs(read(tmp_path / "tables", "test", "ner")) == [("x", ("O",)), ("y", ("B-group",))]


def test_receipts(tmp_path: Path) -> None:
    lines = (
        "100,10,300,10,300,30,100,30,ACME TEA HOUSE SDN BHD\n"
        "100,40,300,40,300,60,100,60,19, JALAN KANCIL,\n"
        "100,70,200,70,200,90,100,90,27/03/2018 16:34\n"
        "100,100,150,100,150,120,100,120,TOTAL\n"
        "160,102,200,102,200,118,160,118,130.00\n"
        "100,180,200,180,200,200,100,200,CASH 130.00\n"
    )
    values = {"company": "Acme Tea House Sdn. Bhd.", "address": "19 JALAN KANCIL",
              "date": "27/03/2018", "total": "130.00"}  # fmt: skip
    for i in range(18):  # of which one is there twice, and one has no values
        given = lines if i < 2 else f"{lines}-3,210,9,210,9,220,-3,220,No. {i}\n"
        write(tmp_path / "source", **{f"box__{i:03}DOTcsv": given})
        if i != 2:
            told = {**values, "address": None} if i == 3 else values
            write(tmp_path / "source", **{f"key__{i:03}DOTjson": json.dumps(told)})
    said = converted("receipts/sroie.py", tmp_path / "source", tmp_path / "tables")
    assert [line.split(": ")[1] for line in said] == ["13 rows", "1 rows", "2 rows"]
    texts = [
        row.record.text
        for split in ("train", "dev", "test")
        for row in read(tmp_path / "tables", split, "ner", use_bbox=True).rows
    ]
    assert len(set(texts)) == 16
    assert read(tmp_path / "tables", "train", "ner", use_bbox=True).rows[1].label[5] == "O"
    [row, *_] = read(tmp_path / "tables", "train", "ner", use_bbox=True).rows
    assert row.record.text.split() == lines_words(lines)
    assert row.label == (
        "B-COMPANY", "I-COMPANY", "I-COMPANY", "I-COMPANY", "I-COMPANY",
        "B-ADDRESS", "I-ADDRESS", "I-ADDRESS", "B-DATE", "O", "O", "B-TOTAL", "O", "O",
    )  # fmt: skip
    assert row.record.bbox is not None
    # ACME is 4 of 22 characters of a line from 100 to 300 on a page that is 300 wide, 200 high.
    assert row.record.bbox[0].tolist() == [333, 50, 455, 150]
    assert row.record.bbox[-1].tolist() == [485, 900, 667, 1000]


def lines_words(lines: str) -> list[str]:
    return [word for line in lines.splitlines() for word in line.split(",", 8)[8].split()]


def test_a_wrong_call_says_what_is_expected(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "emotions/goemotions.py", tmp_path / "missing"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "expected two arguments" in done.stderr
